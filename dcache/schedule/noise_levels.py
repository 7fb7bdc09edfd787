"""Noise levels of a run, and ERTACache's adjustment of them: the worse a prediction, the shorter its step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite

from dcache.errors import DcacheError


def adjusted(sigmas: Sequence[float], factors: Sequence[float]) -> tuple[float, ...]:
    """Noise levels with every step multiplied by a factor, and with the same end.

    A step covers a share of the remaining distance to the end. The share is multiplied by the factor, and the
    last step covers the rest (ERTACache's renormalisation, for levels of any spacing). If all factors are 1
    the levels are returned unchanged.

    Args:
        sigmas: T + 1 falling noise levels, the final one included.
        factors: T numbers above 0; the last one has no effect.

    Raises:
        DcacheError: the lengths differ, a factor is not above 0, or the levels do not fall from 1 towards 0.
    """
    steps = len(sigmas) - 1
    check_grid(tuple(sigmas), steps)
    if len(factors) != steps or not all(isfinite(f) and f > 0 for f in factors):
        raise DcacheError(f"expected {steps} factors above 0, one for each step, got {list(factors)}")
    if all(f == 1 for f in factors):
        return tuple(sigmas)
    levels, end = [float(sigmas[0])], float(sigmas[-1])
    for (start, stop), factor in zip(pairwise(sigmas), factors, strict=True):
        # A share above 1 would overshoot the end.
        share = min((start - stop) * factor / (start - end), 1.0)
        levels.append(levels[-1] - share * (levels[-1] - end))
    levels[-1] = end
    check_grid(tuple(levels), steps)
    return tuple(levels)


def check_grid(sigmas: Sequence[float], steps: int | None) -> None:
    """Check noise levels: falling, within 0 to 1, one for each evaluation and possibly the final one.

    Args:
        sigmas: the noise levels.
        steps: number of evaluations, None if unknown.

    Raises:
        DcacheError: the levels do not fall within 0 to 1, or their number is wrong.
    """
    if steps is not None and len(sigmas) not in (steps, steps + 1):
        raise DcacheError(
            f"expected {steps} noise levels, one for each evaluation, or {steps + 1} with the end's, got "
            f"{len(sigmas)}"
        )
    falling = all(a > b for a, b in pairwise(sigmas))
    if not falling or not all(isinstance(s, int | float) and 0 <= s <= 1 for s in sigmas):
        raise DcacheError(f"noise levels must fall from 1 towards 0, got {list(sigmas)}")
