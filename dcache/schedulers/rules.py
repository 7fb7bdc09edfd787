"""Rules: functions that decide whether a site is computed in an evaluation.

A rule is a callable `rule(context) -> str | None` that returns the reason to compute, or None to let the site
be predicted. Guards are rules too. `any_of` calls rules in order until one returns a reason, so guards that
come first save a later rule's reading of a tensor.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from dcache.util.checks import check_number, check_whole

Rule = Callable[["StepContext"], str | None]


class SiteInfo(Protocol):
    """The properties of a site that a rule can read; `dcache.sites.site.Site` has them."""

    @property
    def name(self) -> str:
        """The site's name."""
        ...

    @property
    def kind(self) -> str:
        """The site's kind."""
        ...

    @property
    def first(self) -> int:
        """Depth of its first block."""
        ...

    @property
    def last(self) -> int:
        """Depth of its last block."""
        ...


@dataclass(slots=True)
class StepContext:
    """The argument of a rule: a site in one evaluation.

    Attributes:
        index: the evaluation, from 0.
        count: evaluations of the run, or None if unknown. A rule that cannot do without returns the reason
            "length": the run is computed, and later ones with the same timesteps are taken to be as long.
        run_length: predictions of this site on this branch since it was last computed.
        site: the site: name, kind, first and last block.
        branch: the branch's name.
        depth: number of blocks of the denoiser's trunk.
        change: returns the change of the method's probe; reads a tensor (one sync).
        time: returns the timestep on the scale of training, 0 to 1000, or None if unknown.
        memory: numbers that the rule may store for this site and branch between its decisions.
        offset: index of the run's first evaluation in the rows of a schedule of several runs.
    """

    index: int
    count: int | None
    run_length: int
    site: SiteInfo
    branch: str
    depth: int
    change: Callable[[], float]
    time: Callable[[], float | None]
    memory: dict[str, float]
    offset: int = 0


@runtime_checkable
class Bounded(Protocol):
    """A rule that knows in advance whether it can ever let a site be predicted."""

    def may_predict(self, steps: int | None) -> bool:
        """False if the rule computes every one of `steps` evaluations; None is an unknown number."""
        ...


def may_predict(rule: Rule, steps: int | None = None) -> bool:
    """False if a rule is known to compute every evaluation, as `Every(1)` does.

    Args:
        rule: True is returned for rules without a method `may_predict`, such as functions.
        steps: evaluations of the run, or None if unknown.
    """
    return rule.may_predict(steps) if isinstance(rule, Bounded) else True


@dataclass(frozen=True)
class Warmup:
    """Compute the first `steps` evaluations."""

    steps: int

    def __post_init__(self) -> None:
        check_whole("warmup", self.steps, 0)

    def __call__(self, context: StepContext) -> str | None:
        """The reason "warmup", or None to let the site be predicted."""
        return "warmup" if context.index < self.steps else None

    def may_predict(self, steps: int | None) -> bool:
        """False if the warm-up covers the whole run."""
        return self.steps < (steps or sys.maxsize)


@dataclass(frozen=True)
class Retention:
    """Compute the first share of the run, at least one evaluation."""

    share: float

    def __post_init__(self) -> None:
        check_number("retention", self.share, 0.0)

    def __call__(self, context: StepContext) -> str | None:
        """The reason "warmup", "length" in a run of unknown length, or None to let the site be predicted."""
        if self.share >= 1.0:
            return "warmup"
        if context.count is None:
            return "length"
        return "warmup" if context.index < max(1, math.floor(self.share * context.count)) else None

    def may_predict(self, steps: int | None) -> bool:
        """False for the whole run."""
        return self.share < 1.0


@dataclass(frozen=True)
class Last:
    """Compute the last evaluation, if the number of evaluations is known."""

    def __call__(self, context: StepContext) -> str | None:
        """The reason "last", or None to let the site be predicted."""
        return "last" if context.count is not None and context.index == context.count - 1 else None


@dataclass(frozen=True)
class KnownLength:
    """Compute a run of unknown length in full: later runs with the same timesteps are taken to be as long."""

    def __call__(self, context: StepContext) -> str | None:
        """The reason "length" in a run of unknown length, or None to let the site be predicted."""
        return "length" if context.count is None else None


@dataclass(frozen=True)
class MaxRun:
    """Compute after `longest` predictions in a row."""

    longest: int

    def __post_init__(self) -> None:
        check_whole("max_run", self.longest, 1)

    def __call__(self, context: StepContext) -> str | None:
        """The reason "max_run", or None to let the site be predicted."""
        return "max_run" if context.run_length >= self.longest else None


@dataclass(frozen=True)
class Every:
    """Compute when `interval - 1` predictions have passed since the last compute, as FORA does."""

    interval: int

    def __post_init__(self) -> None:
        check_whole("interval", self.interval, 1)

    def __call__(self, context: StepContext) -> str | None:
        """The reason "interval", or None to let the site be predicted."""
        return "interval" if context.run_length >= self.interval - 1 else None

    def may_predict(self, steps: int | None) -> bool:
        """False for an interval of 1."""
        return self.interval > 1


@dataclass(frozen=True)
class Listed:
    """Compute exactly the listed evaluations."""

    steps: tuple[int, ...]
    known: frozenset[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for step in self.steps:
            check_whole("every entry of steps", step, 0)
        object.__setattr__(self, "known", frozenset(self.steps))

    def __call__(self, context: StepContext) -> str | None:
        """The reason "listed", or None to let the site be predicted."""
        return "listed" if context.index in self.known else None

    def may_predict(self, steps: int | None) -> bool:
        """False if every evaluation of the run is listed."""
        return steps is None or not self.known.issuperset(range(steps))


@dataclass(frozen=True)
class ChangeAbove:
    """Compute unless the probe's change since the last compute is below `threshold` (FBCache's rule).

    A change of NaN computes, with the reason "nan".
    """

    threshold: float

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0.0)

    def __call__(self, context: StepContext) -> str | None:
        """The reason "threshold" or "nan", or None to let the site be predicted."""
        change = context.change()
        if math.isnan(change):
            return "nan"
        return None if change < self.threshold else "threshold"

    def may_predict(self, steps: int | None) -> bool:
        """False for a threshold of 0, since no change is below it."""
        return self.threshold > 0


@dataclass(frozen=True)
class AnyOf:
    """Compute for the first reason that any of the rules returns."""

    rules: tuple[Rule, ...]

    def __call__(self, context: StepContext) -> str | None:
        """The first reason of the rules in order, or None."""
        for rule in self.rules:
            reason = rule(context)
            if reason is not None:
                return reason
        return None

    def may_predict(self, steps: int | None) -> bool:
        """True if every rule may."""
        return all(may_predict(rule, steps) for rule in self.rules)


def any_of(*rules: Rule | None) -> AnyOf:
    """Combine rules in this order; entries of None are left out."""
    return AnyOf(tuple(rule for rule in rules if rule is not None))


def guarded(*rules: Rule, warmup: int, last: bool = False, max_run: int | None = None) -> AnyOf:
    """Rules after the guards that most methods have.

    Args:
        *rules: called if no guard returns a reason.
        warmup: evaluations computed from the start.
        last: compute the last evaluation if the number of evaluations is known.
        max_run: longest run of predictions, or None for no limit.
    """
    limit = MaxRun(max_run) if max_run is not None else None
    return any_of(Warmup(warmup), Last() if last else None, limit, *rules)
