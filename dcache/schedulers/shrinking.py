"""ProfilingDiT's intervals, which shrink linearly over the run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from dcache.schedulers.rules import StepContext
from dcache.util.checks import check_whole


@cache
def shrinking(steps: int, t_max: int, t_min: int, start: int = 0) -> tuple[int, ...]:
    """The computed evaluations: all before `start`, then at intervals that shrink linearly over the run.

    Args:
        steps: T, evaluations of the run.
        t_max: the interval at `start`.
        t_min: the interval at T.
        start: first evaluation of the first interval.
    """
    computed, t = list(range(min(start, steps))), start
    while t < steps:
        computed.append(t)
        t += max(1, int(t_max - (t_max - t_min) * (t - start) / (steps - start)))
    return tuple(computed)


@dataclass(frozen=True)
class Shrinking:
    """Compute the evaluations of `shrinking`.

    Args:
        t_max: the interval at `start`.
        t_min: the interval at the end.
        start: first evaluation of the first interval; all before are computed.
    """

    t_max: int
    t_min: int
    start: int = 0

    def __post_init__(self) -> None:
        check_whole("t_min", self.t_min, 1)
        check_whole("t_max", self.t_max, self.t_min)
        check_whole("start", self.start, 0)

    def __call__(self, context: StepContext) -> str | None:
        """The reason "interval" or "length", or None to let the site be predicted."""
        # With equal intervals the length of the run does not matter.
        count = context.index + 1 if self.t_max == self.t_min else context.count
        if count is None:
            return "length"
        return "interval" if context.index in shrinking(count, self.t_max, self.t_min, self.start) else None

    def may_predict(self, steps: int | None) -> bool:
        """False for intervals of 1."""
        return self.t_max > 1
