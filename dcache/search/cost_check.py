"""Whether the cost that a profile expects of a schedule is what it costs."""

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
from dcache.search.timing import seconds_of, spread

# Beyond this an expected cost does not rank schedules.
TRUSTED = 0.05


@dataclass(frozen=True)
class CostCheck:
    """What a schedule was expected to cost, and what it did.

    Attributes:
        expected, measured: seconds of the whole call.
        spread: half of the range between the quartiles of the measured seconds, over their median.
    """

    expected: float
    measured: float
    spread: float

    @property
    def off(self) -> float:
        """How far the expectation is above the measurement, as a share of it."""
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
    """Measure schedules in turns with the uncached call, and compare with what the profile expects.

    What is expected is scaled by how fast the machine is now: by the uncached calls of each round.

    Args:
        subject: the pipeline.
        profile: with latencies.
        schedules: of the profile's denoiser; run in their canonical form, which is what is priced.
        prompts: as many as were timed are used, again from the first one where there are fewer.
        seed: of the first picture.
        repeats: timed rounds.

    Raises:
        DcacheError: nothing was timed, or a schedule cannot be priced or used.
    """
    timed = profile.latencies
    if timed is None or not prompts:
        raise DcacheError("a cost can be checked with latencies in the profile, and at least one prompt")
    count = timed.pictures
    batch = ([prompts[i % len(prompts)] for i in range(count)], [seed + i for i in range(count)])
    choices = [
        MethodEntry(f"schedule {i}", f"schedule {i}", method=one.canonical())
        for i, one in enumerate(schedules)
    ]
    taken: list[list[float]] = [[] for _ in range(len(choices) + 1)]
    for turn in range(repeats + 1):
        for one, spent in zip((UNCACHED, *choices), taken, strict=True):
            now = seconds_of(subject, one, batch)
            if turn:
                spent.append(now)
    uncached, *others = taken
    whole = statistics.median(uncached)
    found = []
    for schedule, spent in zip(schedules, others, strict=True):
        shares = [a / b for a, b in zip(spent, uncached, strict=True)]
        expected = cost.seconds(schedule, timed) / timed.uncached * whole
        found.append(CostCheck(expected, statistics.median(shares) * whole, spread(shares)))
    return found
