"""Noise levels of a run, changed: ERTACache's timestep adjustment.

Where a prediction is worse the sampler should go less far on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite

from dcache.errors import DcacheError


def adjusted(sigmas: Sequence[float], factors: Sequence[float]) -> tuple[float, ...]:
    """Noise levels whose steps are multiplied by factors and made to reach the same end.

    Each step is its own length times its factor times what is left of the whole way over what was left of it
    before any change (ERTACache's renormalisation, for levels of any spacing). The last step takes what is
    left. Without a factor other than 1 the levels are returned as they are.

    Args:
        sigmas: T + 1 falling noise levels, the end's included.
        factors: T numbers above 0; the last one counts nothing.

    Raises:
        DcacheError: they do not fit each other, or make no sense.
    """
    steps = len(sigmas) - 1
    check_grid(tuple(sigmas), steps)
    if len(factors) != steps or not all(isfinite(f) and f > 0 for f in factors):
        raise DcacheError(f"expected {steps} factors above 0, one for each step, got {list(factors)}")
    if all(f == 1 for f in factors):
        return tuple(sigmas)
    found, end = [float(sigmas[0])], float(sigmas[-1])
    for (here, there), factor in zip(pairwise(sigmas), factors, strict=True):
        # More than a whole way would overshoot the end.
        share = min((here - there) * factor / (here - end), 1.0)
        found.append(found[-1] - share * (found[-1] - end))
    found[-1] = end
    check_grid(tuple(found), steps)
    return tuple(found)


def check_grid(sigmas: Sequence[float], steps: int | None) -> None:
    """Check noise levels: falling, from 0 to 1, one for each evaluation, with or without the end's.

    Raises:
        DcacheError: they are not.
    """
    if steps is not None and len(sigmas) not in (steps, steps + 1):
        raise DcacheError(
            f"expected {steps} noise levels, one for each evaluation, or {steps + 1} with the end's, got "
            f"{len(sigmas)}"
        )
    falling = all(a > b for a, b in pairwise(sigmas))
    if not falling or not all(isinstance(s, int | float) and 0 <= s <= 1 for s in sigmas):
        raise DcacheError(f"noise levels must fall from 1 towards 0, got {list(sigmas)}")
