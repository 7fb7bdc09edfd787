"""A change rule with a threshold that is steered to a wanted share of computed evaluations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dcache.errors import DcacheError
from dcache.schedulers.rules import StepContext
from dcache.util.checks import is_number

# Evaluation t of T is expected behind K (t / T)^(1 / FRONT_LOADED) of K computes: more at the start, where
# pictures take shape. With 1 they would be even.
FRONT_LOADED = 1.5
# Power by which the threshold grows with the computes ahead of that plan.
GAIN = 4.0
# The threshold at a share of 1; FBCache's probe computed shares of 0.25 to 0.5 of the demo's evaluations at
# this over the share's square.
THRESHOLD = 0.025


@dataclass(frozen=True)
class Steered:
    """Compute where the probe's change reaches a threshold that follows the number of computes so far.

    Of T evaluations K = round(share * T) are computed, neither more nor fewer: when all are spent the rest is
    predicted, and when as many are left as evaluations, the rest is computed. In between the threshold is

        threshold (done / planned)^GAIN,   planned = K (t / T)^(1 / FRONT_LOADED)

    with `done` computes before evaluation t. So it adapts to the scale of the model's changes within a few
    evaluations, and the change only decides the places. Ours.

    Args:
        share: computed share of the run's evaluations, above 0 and at most 1.
        threshold: the threshold where the computes are as planned; None is `THRESHOLD / share^2`.

    Raises:
        DcacheError: the share is outside its range, or, in a run, the number of evaluations is unknown.
    """

    share: float
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not is_number(self.share) or not 0.0 < self.share <= 1.0:
            raise DcacheError(f"share must be a number above 0 and at most 1, got {self.share!r}")

    def __call__(self, context: StepContext) -> str | None:
        """The reason "threshold", "share" or "nan", or None to let the site be predicted."""
        if context.count is None:
            raise DcacheError(
                f"share={self.share:g} is a share of the run, and its number of evaluations is unknown: "
                "give a threshold instead, or call dcache.step(module, index=..., steps=...)"
            )
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
        change = context.change()
        if not math.isfinite(change):
            return "nan" if math.isnan(change) else "threshold"
        planned = computes * (context.index / count) ** (1.0 / FRONT_LOADED)
        usual = THRESHOLD / self.share**2 if self.threshold is None else self.threshold
        return None if change < usual * (done / max(planned, 1e-9)) ** GAIN else "threshold"
