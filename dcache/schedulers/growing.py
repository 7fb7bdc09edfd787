"""Spectrum's steps: the interval grows with every compute."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from dcache.errors import DcacheError
from dcache.schedulers.rules import StepContext
from dcache.util.checks import check_number, check_whole


@cache
def growing(steps: int, window: float, growth: float, start: int = 0) -> tuple[int, ...]:
    """All evaluations before `start`, then intervals of floor(window), floor(window + growth), ...

    Args:
        steps: evaluations of the run that are listed.
        window: length of the first interval, counted from evaluation `start - 1`.
        growth: how much longer each interval is than the one before.
        start: evaluations computed from the start.
    """
    computed, k = list(range(min(start, steps))), 0
    t = start - 1
    while True:
        # Rounded as published, since 0.1 added ten times is no 1.
        t += math.floor(round(window + k * growth, 3))
        if t >= steps:
            return tuple(computed)
        computed.append(t)
        k += 1


@dataclass(frozen=True)
class Growing:
    """Compute the evaluations of `growing`.

    Args:
        window: length of the first interval.
        growth: how much longer each interval is than the one before.
        start: evaluations computed from the start.
    """

    window: float
    growth: float
    start: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_number("window", self.window, 1.0)
        check_number("growth", self.growth, 0.0)
        check_whole("warmup", self.start, 0)
        if not (math.isfinite(self.window) and math.isfinite(self.growth)):
            raise DcacheError(f"window and growth must be finite, got {self.window!r} and {self.growth!r}")

    def __call__(self, moment: StepContext) -> str | None:
        """The reason `window` at a listed evaluation."""
        listed = growing(moment.index + 1, self.window, self.growth, self.start)
        return "window" if listed and listed[-1] == moment.index else None

    def may_predict(self, steps: int | None) -> bool:
        """Whether any interval is longer than 1."""
        return self.growth > 0 or self.window >= 2
