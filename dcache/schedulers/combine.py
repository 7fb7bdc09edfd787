"""Rules made of rules: by the kind of site, by the stage of the run, by the timestep."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from dcache.errors import DcacheError
from dcache.schedulers.rules import Rule, StepContext, may_predict
from dcache.util.checks import check_number, check_whole, is_whole


@dataclass(frozen=True)
class ByKind:
    """A rule for every kind of site.

    Args:
        rules: kind -> rule; kinds that are not listed are computed, with the reason "kind".
    """

    rules: Mapping[str, Rule]

    def __call__(self, context: StepContext) -> str | None:
        """The reason of the rule for the site's kind, "kind" without a rule."""
        rule = self.rules.get(context.site.kind)
        return rule(context) if rule is not None else "kind"

    def may_predict(self, steps: int | None) -> bool:
        """True if the rule of any kind may."""
        return any(may_predict(rule, steps) for rule in self.rules.values())


@dataclass(frozen=True)
class BySite:
    """A rule for every site.

    Args:
        rules: site's name -> rule; sites that are not listed are computed, with the reason "site".
    """

    rules: Mapping[str, Rule]

    def __call__(self, context: StepContext) -> str | None:
        """The reason of the site's rule, "site" without a rule."""
        rule = self.rules.get(context.site.name)
        return rule(context) if rule is not None else "site"

    def may_predict(self, steps: int | None) -> bool:
        """True if the rule of any site may."""
        return any(may_predict(rule, steps) for rule in self.rules.values())


@dataclass(frozen=True)
class Switch:
    """The rule `before` until evaluation `step`, the rule `after` from it on."""

    step: int
    before: Rule
    after: Rule

    def __call__(self, context: StepContext) -> str | None:
        """The reason of the rule that applies to this evaluation."""
        return (self.before if context.index < self.step else self.after)(context)

    def may_predict(self, steps: int | None) -> bool:
        """True if a rule that applies to some evaluation of the run may."""
        before = self.step > 0 and may_predict(self.before, steps)
        return before or (self.step < (steps or sys.maxsize) and may_predict(self.after, steps))


@dataclass(frozen=True)
class OutsideWindow:
    """Compute unless the timestep is strictly between `low` and `high` (0 to 1000, noisiest at 1000).

    Raises:
        DcacheError: the timesteps of the run are unknown.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        check_number("the window's start", self.low)
        check_number("the window's end", self.high, self.low)

    def __call__(self, context: StepContext) -> str | None:
        """The reason "window", or None to let the site be predicted."""
        time = context.time()
        if time is None:
            raise DcacheError(
                f"the window ({self.low:g}, {self.high:g}) is one of timesteps, and those of this run are "
                "unknown: call dcache.step(module, index=..., timestep=...) before each evaluation"
            )
        return None if self.low < time < self.high else "window"


@dataclass(frozen=True)
class EveryNthIndex:
    """Compute every evaluation whose index is a multiple of `interval`, independent of other computes."""

    interval: int

    def __post_init__(self) -> None:
        check_whole("interval", self.interval, 1)

    def __call__(self, context: StepContext) -> str | None:
        """The reason "interval", or None to let the site be predicted."""
        return "interval" if context.index % self.interval == 0 else None

    def may_predict(self, steps: int | None) -> bool:
        """False for an interval of 1."""
        return self.interval > 1


@dataclass(frozen=True)
class DeltaDitStages:
    """Delta-DiT's two stages: before the boundary rear blocks may be predicted, from it on front blocks.

    Args:
        boundary: first evaluation of the second stage, or a share of the run (a float below 1).
        blocks: number of front blocks and of rear blocks, or a share of the depth (a float).
    """

    boundary: float
    blocks: float

    def __call__(self, context: StepContext) -> str | None:
        """The reason "stage" or "length", or None to let the site be predicted."""
        boundary = self.boundary
        if not is_whole(boundary):
            if context.count is None:
                return "length"
            boundary = round(boundary * context.count)
        elif context.count is not None and boundary > context.count:
            raise DcacheError(
                f"boundary={boundary} is behind the run's last evaluation: expected a whole number of at "
                f"most {context.count}, or a share of the run such as 0.24"
            )
        blocks = share_of(self.blocks, context.depth)
        rear = context.index < boundary
        inside = context.site.first >= context.depth - blocks if rear else context.site.last < blocks
        return None if inside else "stage"


@dataclass(frozen=True)
class StepTable:
    """Compute where the row is True, at every site (SmoothCache has one row for every kind)."""

    computed: tuple[bool, ...]

    def __call__(self, context: StepContext) -> str | None:
        """The reason "schedule", or None to let the site be predicted."""
        return "schedule" if self.computed[context.index] else None

    def may_predict(self, steps: int | None) -> bool:
        """True if any entry is False."""
        return not all(self.computed)


def share_of(blocks: float, depth: int) -> int:
    """A number of blocks, given as a whole number or as a share of the depth (a float)."""
    return round(blocks * depth) if isinstance(blocks, float) else int(blocks)
