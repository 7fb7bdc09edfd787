"""`Candidate`: one schedule of a search with its cost and its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dcache.profile import Profile, cost
from dcache.schedule import Schedule
from dcache.search.genomes.space import Genome

# Units of costs: seconds from the profile's latencies, the share of FLOPs, or measured seconds.
COSTS = ("seconds", "flops", "measured")


@dataclass
class Candidate:
    """One schedule of a search, its cost and its results.

    Attributes:
        genome: the first genome with this schedule.
        schedule: the schedule in canonical form.
        digest: digest of the schedule.
        number: order of evaluation, from 0.
        cost: seconds of a call from the profile's latencies (or the share of FLOPs, or measured seconds).
        results: one for each rung it was rendered on, as `QualityEvaluator.evaluate` returns them.
        held_out_result: the result on held-out prompts, which no choice is based on; None before it is
            rendered.
        fitted: whether its weights were fitted on the pictures.
        spent: evaluations of the budget used up to and including this one, renderings of fits too.
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
        """Mean of the metric over all pictures of the first `rungs` rungs; NaN if one has no value."""
        each = [r["each"].get(metric) for r in self.results[:rungs]]
        if all(each):
            return float(np.mean(np.concatenate(each)))
        values = [r["values"].get(metric) for r in self.results[:rungs]]
        return float("nan") if any(v is None for v in values) else float(np.mean(values))

    def noise(self, metric: str) -> float:
        """Standard error of the metric on the first rung; 0 if the metric has no values by picture."""
        return _error(self.results[0]["each"].get(metric))

    def ahead(self, other: Candidate, metric: str, sign: int) -> float:
        """Advantage over `other` on the first rung, minus the standard error of the paired difference."""
        pairs = [candidate.results[0]["each"].get(metric) for candidate in (self, other)]
        gain = sign * (self.value(metric, 1) - other.value(metric, 1))
        if not all(pairs) or not np.isfinite(pairs).all():
            return gain
        return gain - _error(list(np.subtract(*pairs)))


def cost_of(schedule: Schedule, profile: Profile, by: str) -> float:
    """Seconds of a call, or the share of FLOPs; NaN if seconds are measured."""
    if profile.latencies is None or by == "measured":
        return float("nan")
    return (cost.flops if by == "flops" else cost.seconds)(schedule, profile.latencies)


def uncached_of(profile: Profile, by: str) -> float | None:
    """Cost of a call without caching, in the same unit; None if seconds are measured."""
    if by == "flops":
        return 1.0
    return None if profile.latencies is None or by == "measured" else profile.latencies.uncached


def _error(values: Sequence[float] | None) -> float:
    """Standard error of a mean; 0 for fewer than two numbers, or if one is not finite."""
    if not values or len(values) < 2 or not np.isfinite(values).all():
        return 0.0
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
