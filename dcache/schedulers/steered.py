"""A change rule with a threshold that is steered to a wanted share of computed evaluations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dcache.errors import DcacheError
from dcache.schedulers.rules import StepContext
from dcache.util.checks import is_number

# Of K computes, this share is spent near the start, where pictures take shape, beside one that is even.
EARLY = 0.2
# How far the computes may be ahead of the plan or behind it.
BAND = 0.6
# The threshold at a share of 1. Over the share's square it is what FBCache's probe needs for shares of 0.25
# to 0.5 of the demo's evaluations.
THRESHOLD = 0.0235


@dataclass(frozen=True)
class Steered:
    """Compute where the probe's change reaches a threshold, near a plan of the computes so far.

    Of T evaluations K = round(share * T) are computed, neither more nor fewer. Before evaluation t = x T

        planned = K ((1 - EARLY) x + EARLY (1 - exp(-10 x)))

    computes are planned. At `BAND` computes behind the plan the evaluation is computed, at as many ahead it
    is predicted; in between the change decides. So on a model whose changes have another scale the places
    follow the plan, and where the threshold fits they follow the changes. Ours.

    Args:
        share: computed share of the run's evaluations, above 0 and at most 1.
        threshold: the change from which on an evaluation is computed; None is `THRESHOLD / share^2`.

    Raises:
        DcacheError: the share is outside its range.
    """

    share: float
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not is_number(self.share) or not 0.0 < self.share <= 1.0:
            raise DcacheError(f"share must be a number above 0 and at most 1, got {self.share!r}")

    def __call__(self, context: StepContext) -> str | None:
        """The reason "threshold", "share", "length" or "nan", or None to let the site be predicted."""
        if context.count is None:
            return "length"
        reason = self._reason(context, max(1, round(self.share * context.count)), context.count)
        if reason is None:
            context.memory["predicted"] = context.memory.get("predicted", 0.0) + 1.0
        return reason

    def may_predict(self, steps: int | None) -> bool:
        """False if the share is that of every evaluation."""
        return self.share < 1.0 and (steps is None or round(self.share * steps) < steps)

    def _reason(self, context: StepContext, computes: int, count: int) -> str | None:
        # Guards that come before this rule compute without asking it, so predictions are counted instead.
        done = context.index - context.memory.get("predicted", 0.0)
        if done >= computes:
            return None
        if count - context.index <= computes - done:
            return "share"
        x = context.index / count
        ahead = done - computes * ((1.0 - EARLY) * x + EARLY * (1.0 - math.exp(-10.0 * x)))
        if abs(ahead) >= BAND:
            return "share" if ahead < 0 else None
        change = context.change()
        if math.isnan(change):
            return "nan"
        edge = THRESHOLD / self.share**2 if self.threshold is None else self.threshold
        return None if change < edge else "threshold"
