"""Rules of a method that plans from an observed run: compute everything in it, then follow the plan."""

from __future__ import annotations

from dataclasses import dataclass

from dcache.schedulers.rules import StepContext


@dataclass(frozen=True)
class Observing:
    """Compute every evaluation of a run that is observed; later runs like it may predict."""

    def __call__(self, context: StepContext) -> str:
        """The reason "observing", or "length" where the number of evaluations is not known."""
        return "length" if context.count is None else "observing"


@dataclass(frozen=True)
class Planned:
    """Compute where the plan does, and every evaluation behind its end.

    Args:
        computed: one bool per evaluation, True = compute.
    """

    computed: tuple[bool, ...]

    def __call__(self, context: StepContext) -> str | None:
        """The reason "schedule", or None to let the site be predicted."""
        return "schedule" if context.index >= len(self.computed) or self.computed[context.index] else None

    def may_predict(self, steps: int | None) -> bool:
        """True if any entry is False."""
        return not all(self.computed)
