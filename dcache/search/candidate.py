"""`Candidate`: one schedule that was evaluated, what it costs and how good its pictures are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dcache.profile import Profile, cost
from dcache.schedule import Schedule
from dcache.search.space import Genome

# What costs are: seconds by the profile's latencies, the share of FLOPs, or seconds that were measured.
COSTS = ("seconds", "flops", "measured")


@dataclass
class Candidate:
    """One function that was evaluated.

    Attributes:
        genome: the first that stood for it.
        schedule: its canonical form.
        digest: of the schedule.
        number: 0 for the first that was evaluated, and so on.
        cost: by the profile's latencies, in seconds of a call (or the share of FLOPs, or measured seconds).
        results: what the judge said, one for each rung that it was rendered on.
        held: what the judge said on held-out prompts, which nothing is chosen by.
        fitted: whether its weights were fitted on the pictures.
        spent: of the budget, this evaluation and the renderings of fits before it included.
    """

    genome: Genome
    schedule: Schedule
    digest: str
    number: int
    cost: float
    results: list[dict[str, Any]] = field(default_factory=list)
    held_out_result: dict[str, Any] | None = None
    fitted: bool = False
    spent: int = 0

    def value(self, metric: str, rungs: int) -> float:
        """The metric over the first so many rungs, NaN where there is none: the mean of all its pictures."""
        each = [r["each"].get(metric) for r in self.results[:rungs]]
        if all(each):
            return float(np.mean(np.concatenate(each)))
        values = [r["values"].get(metric) for r in self.results[:rungs]]
        return float("nan") if any(v is None for v in values) else float(np.mean(values))

    def noise(self, metric: str) -> float:
        """Standard error of the metric on the first rung, 0 where it has no number for each picture."""
        return _error(self.results[0]["each"].get(metric))

    def ahead(self, other: Candidate, metric: str, sign: int) -> float:
        """By how much it is better on the first rung, less the standard error of that, picture by picture."""
        pairs = [one.results[0]["each"].get(metric) for one in (self, other)]
        gain = sign * (self.value(metric, 1) - other.value(metric, 1))
        if not all(pairs) or not np.isfinite(pairs).all():
            return gain
        return gain - _error(list(np.subtract(*pairs)))


def cost_of(schedule: Schedule, profile: Profile, by: str) -> float:
    """Seconds of a call, or the share of FLOPs; NaN where it is to be measured."""
    if profile.latencies is None or by == "measured":
        return float("nan")
    return (cost.flops if by == "flops" else cost.seconds)(schedule, profile.latencies)


def uncached_of(profile: Profile, by: str) -> float | None:
    """The cost of a call without caching, in the same unit; None where it is to be measured."""
    if by == "flops":
        return 1.0
    return None if profile.latencies is None or by == "measured" else profile.latencies.uncached


def _error(values: Sequence[float] | None) -> float:
    """Standard error of a mean, 0 where it is of one number or none."""
    if not values or len(values) < 2 or not np.isfinite(values).all():
        return 0.0
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
