"""Seconds of a pipeline's sites: computed, and predicted.

A site's own clock tells what a prediction saves. What remembering costs in every evaluation is outside of it,
so whole calls are measured too, in turns with uncached ones, for each set of sites that can be predicted
together: ones in which every second evaluation is computed, in which the clocks run, and ones in which
evaluation 0 alone is. All is divided by the uncached call of its round, for machines slow down and recover.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dcache.engine.observe import observe
from dcache.errors import DcacheError
from dcache.eval.call_cost import counting
from dcache.eval.entries import UNCACHED, BenchEntry, run_once
from dcache.eval.specs import MethodEntry
from dcache.eval.subject import Subject
from dcache.identity.denoisers import denoisers
from dcache.profile import Latencies
from dcache.schedule import Plan, Schedule
from dcache.search.site_timing import Readings, Stopwatch, median, reader, seconds
from dcache.sites.names import span_of

Batch = tuple[list[str], list[int]]


def latencies(
    subject: Subject,
    component: str,
    sites: Sequence[str],
    steps: int,
    batch: Batch,
    repeats: int = 3,
    tell: Callable[[str], None] = lambda _what: None,
) -> Latencies:
    """Time the sites of one denoiser.

    Args:
        subject: the pipeline.
        component: the denoiser's name in it.
        sites: names of sites; they may lie inside one another.
        steps: evaluations of a run.
        batch: prompts and seeds of every timed call.
        repeats: timed rounds, behind one that warms up.
        tell: called with what is under way.

    Raises:
        DcacheError: there are no rounds, or a site cannot be predicted.
    """
    if repeats < 1:
        raise DcacheError(f"expected at least one timed round, got {repeats}")
    groups = [_Group(subject, component, group, steps) for group in apart(sites)]
    for i, group in enumerate(groups):
        tell(f"FLOPs, set of sites {i + 1} of {len(groups)}")
        group.count(subject, batch)
    uncached: list[float] = []
    for turn in range(repeats + 1):
        tell(f"timed round {turn} of {repeats}" if turn else "warm-up")
        whole = seconds_of(subject, UNCACHED, batch)
        rounds = [group.measure(subject, batch, whole) for group in groups]
        if turn:
            uncached.append(whole)
            for group, one in zip(groups, rounds, strict=True):
                group.rounds.append(one)
    whole = statistics.median(uncached)
    found = [group.result(whole) for group in groups]
    merged = {
        name: {site: value for one in found for site, value in getattr(one, name).items()}
        for name in ("computed", "predicted", "flops", "overhead")
    }
    ordered = {name: {site: table[site] for site in sites} for name, table in merged.items()}
    return Latencies(whole, **ordered, pictures=len(batch[0]), spread=spread(uncached))


def apart(sites: Sequence[str]) -> list[list[str]]:
    """Sets of sites of which none overlaps another: each site goes to the first that it fits."""
    groups: list[list[str]] = []
    for site in sites:
        group = next((g for g in groups if not any(_overlap(site, other) for other in g)), None)
        if group is None:
            groups.append([site])
        else:
            group.append(site)
    return groups


@dataclass
class _Clocks:
    """What the sites of one set take in one evaluation, and a call for remembering each."""

    computed: dict[str, float] = field(default_factory=dict)
    predicted: dict[str, float] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    overhead: dict[str, float] = field(default_factory=dict)


@dataclass
class _Round:
    """One round of one set, all as shares of the uncached call: both whole calls and the sites' clocks."""

    often: float
    once: float
    computed: dict[str, float]
    predicted: dict[str, float]


class _Group:
    """Sites that can be predicted together."""

    def __init__(self, subject: Subject, component: str, sites: Sequence[str], steps: int) -> None:
        self.sites = list(sites)
        self.steps = steps
        self.module = denoisers(subject.pipe)[component]
        self.often = _choice(subject, component, sites, steps, range(0, steps, 2))
        self.once = _choice(subject, component, sites, steps, range(1))
        self.flops: dict[str, float] = {}
        self.rounds: list[_Round] = []

    def count(self, subject: Subject, batch: Batch) -> None:
        """Count FLOPs, in a run that is not timed."""
        counter = counting()
        with self.often.enabled(subject.pipe), counter:
            watch = Stopwatch(counter.get_total_flops)
            with observe(self.module, watch):
                subject(*batch)
        computed = watch.readings.computed
        self.flops = {site: median(computed[site], lambda a, b: float(b - a)) for site in self.sites}

    def measure(self, subject: Subject, batch: Batch, whole: float) -> _Round:
        """Both calls; `whole` is the uncached one of this round."""
        clocked = _Clocked(self.often.spec, self.often.label, method=self.often.method, module=self.module)
        often = seconds_of(subject, clocked, batch)
        once = seconds_of(subject, self.once, batch)
        computed, predicted = (
            {site: median(spans[site], seconds) / whole for site in self.sites}
            for spans in (clocked.readings.computed, clocked.readings.predicted)
        )
        return _Round(often / whole, once / whole, computed, predicted)

    def result(self, whole: float) -> _Clocks:
        """Medians over rounds, such that both measured calls cost what they did on average."""

        def medians(tables: list[dict[str, float]]) -> dict[str, float]:
            return {site: whole * statistics.median(table[site] for table in tables) for site in self.sites}

        predicted = medians([one.predicted for one in self.rounds])
        computed = medians([one.computed for one in self.rounds])
        gains = {site: max(0.0, computed[site] - predicted[site]) for site in self.sites}
        # Events that the two measured calls predict, and what they saved by it.
        events = self.steps // 2 + self.steps - 1
        calls = (statistics.median(getattr(one, name) for one in self.rounds) for name in ("often", "once"))
        saved = sum(whole * (1.0 - share) for share in calls)
        overhead = (sum(gains.values()) * events - saved) / 2.0
        if overhead < 0.0:
            # More goes away with a site than its clock sees.
            factor = saved / events / sum(gains.values()) if any(gains.values()) else 1.0
            gains, overhead = {site: gain * factor for site, gain in gains.items()}, 0.0
        return _Clocks(
            {site: predicted[site] + gains[site] for site in self.sites},
            predicted,
            self.flops,
            dict.fromkeys(self.sites, overhead / len(self.sites)),
        )


@dataclass(frozen=True)
class _Clocked(MethodEntry):
    """A schedule under which every site's clock runs; the readings are of its last call."""

    module: Any = None
    readings: Readings = field(default_factory=Readings)

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        watch = Stopwatch(reader(self.module), self.readings)
        with super().enabled(pipe), observe(self.module, watch):
            yield


def seconds_of(subject: Subject, one: BenchEntry, batch: Batch) -> float:
    """Of one whole call."""
    return run_once(subject, one, *batch).cost.seconds


def _choice(
    subject: Subject, component: str, sites: Sequence[str], steps: int, computed: range
) -> MethodEntry:
    """A schedule of some sites of one denoiser; others compute everything."""
    plans = {
        name: Plan({"*": {"model": (True,) * steps}}) for name in denoisers(subject.pipe) if name != component
    }
    row = tuple(t in computed for t in range(steps))
    plans[component] = Plan({"*": dict.fromkeys(sites, row)})
    name = f"{', '.join(sites)} at {computed}"
    return MethodEntry(name, name, method=Schedule(steps, plans, method="timing"))


def _overlap(a: str, b: str) -> bool:
    if a.startswith("bracket") or b.startswith("bracket"):
        return True
    one, other = span_of(a), span_of(b)
    return one.first <= other.last and other.first <= one.last


def spread(values: Sequence[float]) -> float:
    """Half of the range between the quartiles, over the median."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2.0 / middle
