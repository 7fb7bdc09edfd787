"""Rules say why a site must be computed now, or None to let it be predicted.

A rule is a callable `rule(moment) -> str | None`: the reason to compute. Guards are rules too; `any_of` asks
them in order and takes the first reason, so cheap guards spare the rules behind them from reading a tensor.
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
    """What a rule may know of a site; `dcache.sites.site.Site` is one."""

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
    """All that a rule may look at.

    Attributes:
        index: evaluation under way, from 0.
        count: evaluations of the run, or None where unknown.
        run_length: predictions of this site on this branch since it was last computed.
        site: the site: its name, kind, and first and last block.
        branch: the branch's name.
        depth: number of blocks of the denoiser's trunk.
        change: what the probe's indicator says of its change; reads a tensor (one sync).
        time: timestep on the scale of training, 0 to 1000, or None where it is not known.
        memory: numbers that the rule keeps of this site and branch between its decisions.
        offset: where the run's evaluations begin in the rows of a schedule of several runs.
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
    """A rule that says beforehand whether it ever lets a site be predicted."""

    def may_predict(self, steps: int | None) -> bool:
        """Whether it ever does; `steps` is the number of evaluations, None where unknown."""
        ...


def may_predict(rule: Rule, steps: int | None = None) -> bool:
    """Whether a rule can ever let a site be predicted: `Every(1)` never does.

    Args:
        rule: one without a method `may_predict`, such as a plain function, is assumed to.
        steps: evaluations of the run, or None where unknown.
    """
    return rule.may_predict(steps) if isinstance(rule, Bounded) else True


@dataclass(frozen=True)
class Warmup:
    """Compute the first `steps` evaluations."""

    steps: int

    def __post_init__(self) -> None:
        """Check the range."""
        check_whole("warmup", self.steps, 0)

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        return "warmup" if moment.index < self.steps else None

    def may_predict(self, steps: int | None) -> bool:
        """Not where the whole run is warm-up."""
        return self.steps < (steps or sys.maxsize)


@dataclass(frozen=True)
class Retention:
    """Compute the first share of the run, at least one evaluation."""

    share: float

    def __post_init__(self) -> None:
        """Check the range."""
        check_number("retention", self.share, 0.0)

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        steps = 1 if moment.count is None else max(1, math.floor(self.share * moment.count))
        return "warmup" if moment.index < steps else None


@dataclass(frozen=True)
class Last:
    """Compute the last evaluation, where their number is known."""

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        return "last" if moment.count is not None and moment.index == moment.count - 1 else None


@dataclass(frozen=True)
class MaxRun:
    """Compute after `longest` predictions in a row."""

    longest: int

    def __post_init__(self) -> None:
        """Check the range."""
        check_whole("max_run", self.longest, 0)

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        return "max_run" if moment.run_length >= self.longest else None

    def may_predict(self, steps: int | None) -> bool:
        """Not where no prediction in a row is allowed."""
        return self.longest > 0


@dataclass(frozen=True)
class Every:
    """Compute when `interval - 1` predictions have passed since the last compute (FORA and its kin)."""

    interval: int

    def __post_init__(self) -> None:
        """Check the range."""
        check_whole("interval", self.interval, 1)

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        return "interval" if moment.run_length >= self.interval - 1 else None

    def may_predict(self, steps: int | None) -> bool:
        """Not with an interval of 1."""
        return self.interval > 1


@dataclass(frozen=True)
class Listed:
    """Compute exactly the listed evaluations."""

    steps: tuple[int, ...]
    known: frozenset[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the list."""
        for step in self.steps:
            check_whole("every entry of steps", step, 0)
        object.__setattr__(self, "known", frozenset(self.steps))

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        return "listed" if moment.index in self.known else None

    def may_predict(self, steps: int | None) -> bool:
        """Not where every evaluation of the run is listed."""
        return steps is None or not self.known.issuperset(range(steps))


@dataclass(frozen=True)
class ChangeAbove:
    """Compute unless the probe changed by less than `threshold` since the last compute (FBCache's decision).

    A change that is no number computes, with the reason `nan`.
    """

    threshold: float

    def __post_init__(self) -> None:
        """Check the range."""
        check_number("threshold", self.threshold, 0.0)

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        change = moment.change()
        if math.isnan(change):
            return "nan"
        return None if change < self.threshold else "threshold"

    def may_predict(self, steps: int | None) -> bool:
        """Not with a threshold of 0, which no change is below."""
        return self.threshold > 0


@dataclass(frozen=True)
class AnyOf:
    """The first reason any of the rules gives."""

    rules: tuple[Rule, ...]

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        for rule in self.rules:
            reason = rule(moment)
            if reason is not None:
                return reason
        return None

    def may_predict(self, steps: int | None) -> bool:
        """Where each of the rules may."""
        return all(may_predict(rule, steps) for rule in self.rules)


def any_of(*rules: Rule | None) -> AnyOf:
    """Combine rules; None entries are left out."""
    return AnyOf(tuple(rule for rule in rules if rule is not None))


def guarded(*rules: Rule, warmup: int, last: bool = False, max_run: int | None = None) -> AnyOf:
    """The rules behind the guards that most methods have.

    Args:
        *rules: asked where no guard computes.
        warmup: evaluations computed from the start.
        last: compute the last evaluation where the number of evaluations is known.
        max_run: longest run of predictions, or None for no limit.
    """
    limit = MaxRun(max_run) if max_run is not None else None
    return any_of(Warmup(warmup), Last() if last else None, limit, *rules)
