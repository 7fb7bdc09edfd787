"""Rules made of rules: by the kind of site, by the stage of the run, by the timestep."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from dcache.errors import DcacheError
from dcache.schedulers.rules import Rule, StepContext, may_predict
from dcache.util.checks import check_number, check_whole


@dataclass(frozen=True)
class ByKind:
    """Every kind of site has a rule of its own.

    Args:
        rules: kind -> rule; a kind that is not listed is computed, with the reason "kind".
    """

    rules: Mapping[str, Rule]

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        rule = self.rules.get(moment.site.kind)
        return rule(moment) if rule is not None else "kind"

    def may_predict(self, steps: int | None) -> bool:
        """Where the rule of any kind may."""
        return any(may_predict(rule, steps) for rule in self.rules.values())


@dataclass(frozen=True)
class BySite:
    """Every site has a rule of its own.

    Args:
        rules: site's name -> rule; a site that is not listed is computed, with the reason "site".
    """

    rules: Mapping[str, Rule]

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        rule = self.rules.get(moment.site.name)
        return rule(moment) if rule is not None else "site"

    def may_predict(self, steps: int | None) -> bool:
        """Where the rule of any site may."""
        return any(may_predict(rule, steps) for rule in self.rules.values())


@dataclass(frozen=True)
class Switch:
    """One rule before an evaluation, another from it on."""

    step: int
    before: Rule
    after: Rule

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        return (self.before if moment.index < self.step else self.after)(moment)

    def may_predict(self, steps: int | None) -> bool:
        """Where a rule that has its turn in the run may."""
        before = self.step > 0 and may_predict(self.before, steps)
        return before or (self.step < (steps or sys.maxsize) and may_predict(self.after, steps))


@dataclass(frozen=True)
class OutsideWindow:
    """Compute while the timestep is not strictly between `low` and `high` (0 to 1000, noisiest at 1000).

    Raises:
        DcacheError: the run does not tell its timesteps.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Check the range."""
        check_number("the window's start", self.low, -math.inf)
        check_number("the window's end", self.high, self.low)

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        time = moment.time()
        if time is None:
            raise DcacheError(
                f"the window ({self.low:g}, {self.high:g}) is one of timesteps, and this run does not tell "
                "them: call dcache.step(module, index=..., timestep=...) before each evaluation"
            )
        return None if self.low < time < self.high else "window"


@dataclass(frozen=True)
class EveryNthIndex:
    """Compute every evaluation whose index is a multiple of `interval`, whatever was computed between."""

    interval: int

    def __post_init__(self) -> None:
        """Check the range."""
        check_whole("interval", self.interval, 1)

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        return "interval" if moment.index % self.interval == 0 else None

    def may_predict(self, steps: int | None) -> bool:
        """Not with an interval of 1."""
        return self.interval > 1


@dataclass(frozen=True)
class DeltaDitStages:
    """Delta-DiT's two stages: until the boundary the rear blocks may be predicted, from it on the front ones.

    Args:
        boundary: evaluation at which the stages change, or a share of the run (a float below 1).
        blocks: how many blocks belong to the front and to the rear, or a share of the depth.
    """

    boundary: float
    blocks: float

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        boundary = self.boundary
        if isinstance(boundary, float):
            if moment.count is None:
                raise DcacheError(
                    f"boundary={boundary} is a share of the run, and this run does not tell its number of "
                    "evaluations: give the boundary as a whole number"
                )
            boundary = round(boundary * moment.count)
        blocks = share_of(self.blocks, moment.depth)
        rear = moment.index < boundary
        inside = moment.site.first >= moment.depth - blocks if rear else moment.site.last < blocks
        return None if inside else "stage"


@dataclass(frozen=True)
class StepTable:
    """Compute where the row says so, whatever the site (SmoothCache: one row for every kind)."""

    computed: tuple[bool, ...]

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        return "schedule" if self.computed[moment.index] else None

    def may_predict(self, steps: int | None) -> bool:
        """Where any entry says so."""
        return not all(self.computed)


def share_of(blocks: float, depth: int) -> int:
    """A number of blocks, given as such or as a share of the depth (a float)."""
    return round(blocks * depth) if isinstance(blocks, float) else int(blocks)
