"""Comparison of a schedule's expected cost, from a profile, with its measured cost."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dcache.errors import DcacheError
from dcache.eval.entries import UNCACHED
from dcache.eval.specs import MethodEntry
from dcache.eval.subject import Subject
from dcache.profile import Profile, cost
from dcache.schedule import Schedule
from dcache.search.observing.timing import seconds_of, spread

# With a larger relative error, expected costs are not good enough to rank schedules.
TRUSTED = 0.05


@dataclass(frozen=True)
class CostCheck:
    """Expected and measured cost of a schedule.

    Attributes:
        expected, measured: seconds of the whole call.
        spread: half the interquartile range of the measured seconds, divided by their median.
    """

    expected: float
    measured: float
    spread: float

    @property
    def off(self) -> float:
        """Relative error of the expectation; positive if it is above the measurement."""
        return self.expected / self.measured - 1.0

    def __str__(self) -> str:
        text = (
            f"{self.expected:.3g} s expected, {self.measured:.3g} s measured "
            f"({self.off:+.1%}, spread {self.spread:.1%})"
        )
        if abs(self.off) <= TRUSTED:
            return text
        return f"{text}: more than {TRUSTED:.0%} off, so do not rank schedules by their expected cost"


def check_cost(
    subject: Subject,
    profile: Profile,
    schedules: Sequence[Schedule],
    prompts: Sequence[str],
    *,
    seed: int = 0,
    repeats: int = 5,
) -> list[CostCheck]:
    """Measure schedules in turns with the uncached call, and compare with the profile's expected costs.

    Expected costs are scaled by the speed of the machine now, from the uncached calls of each round.

    Args:
        subject: the pipeline.
        profile: a profile with latencies.
        schedules: schedules of the profile's denoiser; they run in their canonical form, which is also
            priced.
        prompts: repeated or cut to the number of pictures that the latencies were timed with.
        seed: seed of the first picture.
        repeats: timed rounds, after one that warms up.

    Raises:
        DcacheError: the profile has no latencies, there are no prompts, or a schedule does not fit.
    """
    timed = profile.latencies
    if timed is None or not prompts:
        raise DcacheError("checking a cost needs a profile with latencies, and at least one prompt")
    count = timed.pictures
    batch = ([prompts[i % len(prompts)] for i in range(count)], [seed + i for i in range(count)])
    entries = [
        MethodEntry(f"schedule {i}", f"schedule {i}", method=schedule.canonical())
        for i, schedule in enumerate(schedules)
    ]
    timings: list[list[float]] = [[] for _ in range(len(entries) + 1)]
    for turn in range(repeats + 1):
        for entry, spent in zip((UNCACHED, *entries), timings, strict=True):
            now = seconds_of(subject, entry, batch)
            if turn:
                spent.append(now)
    uncached, *others = timings
    whole = statistics.median(uncached)
    checks = []
    for schedule, spent in zip(schedules, others, strict=True):
        shares = [a / b for a, b in zip(spent, uncached, strict=True)]
        expected = cost.seconds(schedule, timed) / timed.uncached * whole
        checks.append(CostCheck(expected, statistics.median(shares) * whole, spread(shares)))
    return checks
