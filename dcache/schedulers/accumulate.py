"""Rules that sum up the expected error of predictions, and compute when the sum reaches a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dcache.schedulers.rules import StepContext
from dcache.util.checks import check_number


@dataclass(frozen=True)
class Accumulated:
    """Sum up the probe's change, rescaled by a polynomial; compute when the sum reaches the threshold.

    TeaCache's rule (Liu et al. 2024), and EasyCache's with the polynomial x. The sum restarts after every
    computed evaluation. A change of NaN computes, with the reason "nan".

    Args:
        threshold: predicted while the sum is below it.
        polynomial: coefficients, highest power first.
    """

    threshold: float
    polynomial: tuple[float, ...] = (1.0, 0.0)

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0.0)

    def __call__(self, context: StepContext) -> str | None:
        """The reason "threshold" or "nan", or None to let the site be predicted."""
        change = context.change()
        if not math.isfinite(change):
            return "nan" if math.isnan(change) else "threshold"
        before = context.memory.get("sum", 0.0) if context.run_length else 0.0
        total = context.memory["sum"] = before + horner(self.polynomial, change)
        return None if total < self.threshold else "threshold"

    def may_predict(self, steps: int | None) -> bool:
        """False for a threshold of 0."""
        return self.threshold > 0


@dataclass(frozen=True)
class MagCacheRule:
    """MagCache's rule (Ma et al. 2025): the change of the residual's magnitude is known from earlier runs.

    With r_t = |residual_t| / |residual_{t-1}|, rho is the product of r over the evaluations since the last
    compute, and the error is the sum of |1 - rho| over them. No tensor is read: the rule is static.

    Args:
        threshold: predicted while the error is at most this.
        ratios: r for every evaluation of a run; in a run of another length, that of the nearest evaluation.
    """

    threshold: float
    ratios: tuple[float, ...]

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0.0)

    def __call__(self, context: StepContext) -> str | None:
        """The reason "threshold" or "length", or None to let the site be predicted."""
        if context.count is None:
            return "length"
        rho, error = 1.0, 0.0
        for step in range(context.index - context.run_length, context.index + 1):
            rho *= nearest(self.ratios, step, context.count)
            error += abs(1.0 - rho)
        return None if error <= self.threshold else "threshold"


def horner(coefficients: Sequence[float], x: float) -> float:
    """The value at x of the polynomial with these coefficients, highest power first."""
    value = 0.0
    for c in coefficients:
        value = value * x + c
    return value


def nearest(table: Sequence[float], step: int, count: int) -> float:
    """The entry of a table for evaluation `step` of `count`, at the same fraction of the run.

    Args:
        table: one number for each evaluation of a run of `len(table)` evaluations.
        step: the evaluation.
        count: evaluations of this run.
    """
    if count == len(table):
        return table[min(step, count - 1)]
    return table[round(step * (len(table) - 1) / max(count - 1, 1))]
