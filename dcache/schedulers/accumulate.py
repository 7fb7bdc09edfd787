"""Rules that add up how far a prediction may have drifted, and compute when that is too much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dcache.errors import DcacheError
from dcache.schedulers.rules import StepContext
from dcache.util.checks import check_number


@dataclass(frozen=True)
class Accumulated:
    """Add up the probe's change, rescaled by a polynomial; compute when the sum reaches the threshold.

    TeaCache's decision (Liu et al. 2024), and EasyCache's with the polynomial x. The sum starts afresh at
    every computed evaluation. A change that is no number computes, with the reason "nan".

    Args:
        threshold: predicted while the sum is below it.
        polynomial: coefficients, highest power first.
    """

    threshold: float
    polynomial: tuple[float, ...] = (1.0, 0.0)

    def __post_init__(self) -> None:
        """Check the range."""
        check_number("threshold", self.threshold, 0.0)

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        change = moment.change()
        if not math.isfinite(change):
            return "nan" if math.isnan(change) else "threshold"
        before = moment.memory.get("sum", 0.0) if moment.run_length else 0.0
        total = moment.memory["sum"] = before + horner(self.polynomial, change)
        return None if total < self.threshold else "threshold"

    def may_predict(self, steps: int | None) -> bool:
        """Not with a threshold of 0."""
        return self.threshold > 0


@dataclass(frozen=True)
class MagCacheRule:
    """MagCache's decision (Ma et al. 2025): the change of the residual's magnitude is known beforehand.

    With r_t = |residual_t| / |residual_{t-1}|, rho = product of r over the evaluations since the last
    computed one; the error is the sum of |1 - rho| over them. Nothing is looked at: this is a static table.

    Args:
        threshold: predicted while the error is at most this.
        ratios: r for every evaluation of a run; for another number of them, the nearest.
    """

    threshold: float
    ratios: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the range."""
        check_number("threshold", self.threshold, 0.0)

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        if moment.count is None:
            raise DcacheError(
                "the ratios are one for each evaluation of a run, and this run does not tell how many it "
                "has: call dcache.step(module, index=..., steps=...)"
            )
        rho, error = 1.0, 0.0
        for step in range(moment.index - moment.run_length, moment.index + 1):
            rho *= nearest(self.ratios, step, moment.count)
            error += abs(1.0 - rho)
        return None if error <= self.threshold else "threshold"


def horner(coefficients: Sequence[float], x: float) -> float:
    """The polynomial with these coefficients, highest power first, at x."""
    value = 0.0
    for c in coefficients:
        value = value * x + c
    return value


def nearest(table: Sequence[float], step: int, count: int) -> float:
    """The entry for evaluation `step` of `count`, of a table made for a run of its own length."""
    if count == len(table):
        return table[min(step, count - 1)]
    return table[round(step * (len(table) - 1) / max(count - 1, 1))]
