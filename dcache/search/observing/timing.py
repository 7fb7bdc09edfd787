"""Seconds of a pipeline's sites, computed and predicted.

A clock around a site measures what a prediction saves, but not the overhead of caching in every evaluation.
So whole calls are timed too, in turns with uncached ones, for each set of sites that can be predicted
together:

- `often`: every second evaluation is computed; the clocks run in these calls.
- `once`: only evaluation 0 is computed.

All times are divided by the uncached call of the same round, because the speed of a machine drifts.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dcache.engine.observe import observe
from dcache.errors import DcacheError
from dcache.eval.entries import UNCACHED, BenchEntry, run_once
from dcache.eval.progress import StageProgress
from dcache.eval.specs import MethodEntry
from dcache.eval.subject import Subject
from dcache.identity.denoisers import denoisers
from dcache.profile import Latencies
from dcache.schedule import Plan, Schedule
from dcache.search.observing.site_timing import (
    Readings,
    Stopwatch,
    flops_of_sites,
    median,
    reader,
    seconds,
)
from dcache.sites.names import span_of

Batch = tuple[list[str], list[int]]


def latencies(
    subject: Subject,
    component: str,
    sites: Sequence[str],
    steps: int,
    batch: Batch,
    repeats: int = 3,
    progress: StageProgress = lambda _stage: None,
) -> Latencies:
    """Time the sites of one denoiser.

    Args:
        subject: the pipeline.
        component: the denoiser's name in the pipeline.
        sites: names of sites; they may overlap.
        steps: evaluations of a run.
        batch: prompts and seeds of every timed call.
        repeats: timed rounds, after one that warms up.
        progress: called with a description of each stage.

    Raises:
        DcacheError: `repeats` is below 1, or a site cannot be predicted.
    """
    if repeats < 1:
        raise DcacheError(f"expected at least one timed round, got {repeats}")
    groups = [_Group(subject, component, group, steps) for group in apart(sites)]
    for i, group in enumerate(groups):
        progress(f"FLOPs, set of sites {i + 1} of {len(groups)}")
        group.count(subject, batch)
    uncached: list[float] = []
    for turn in range(repeats + 1):
        progress(f"timed round {turn} of {repeats}" if turn else "warm-up")
        whole = seconds_of(subject, UNCACHED, batch)
        rounds = [group.measure(subject, batch, whole) for group in groups]
        if turn:
            uncached.append(whole)
            for group, timed in zip(groups, rounds, strict=True):
                group.rounds.append(timed)
    whole = statistics.median(uncached)
    results = [group.result(whole) for group in groups]
    merged = {
        name: {site: value for clocks in results for site, value in getattr(clocks, name).items()}
        for name in ("computed", "predicted", "flops", "overhead")
    }
    ordered = {name: {site: table[site] for site in sites} for name, table in merged.items()}
    return Latencies(whole, **ordered, pictures=len(batch[0]), spread=spread(uncached))


def apart(sites: Sequence[str]) -> list[list[str]]:
    """Split sites into sets without overlaps; each site joins the first set that it fits."""
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
    """Figures of the sites of one set.

    Attributes:
        computed, predicted: seconds of a site in one evaluation.
        flops: FLOPs of a site in one evaluation.
        overhead: seconds that caching a site adds to a whole call.
    """

    computed: dict[str, float] = field(default_factory=dict)
    predicted: dict[str, float] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    overhead: dict[str, float] = field(default_factory=dict)


@dataclass
class _Round:
    """Times of one round in units of the uncached call: the calls `often` and `once`, and the clocks."""

    often: float
    once: float
    computed: dict[str, float]
    predicted: dict[str, float]


class _Group:
    """A set of sites that can be predicted together."""

    def __init__(self, subject: Subject, component: str, sites: Sequence[str], steps: int) -> None:
        self.sites = list(sites)
        self.steps = steps
        self.module = denoisers(subject.pipe)[component]
        self.often = _entry(subject, component, sites, steps, range(0, steps, 2))
        self.once = _entry(subject, component, sites, steps, range(1))
        self.flops: dict[str, float] = {}
        self.rounds: list[_Round] = []

    def count(self, subject: Subject, batch: Batch) -> None:
        """Count FLOPs, in a run that is not timed."""
        with self.often.enabled(subject.pipe):
            counted = flops_of_sites(self.module, lambda: subject(*batch))
        self.flops = {site: counted.get(site, 0.0) for site in self.sites}

    def measure(self, subject: Subject, batch: Batch, whole: float) -> _Round:
        """Time both calls; `whole` is the seconds of this round's uncached call."""
        clocked = _Clocked(self.often.spec, self.often.label, method=self.often.method, module=self.module)
        often = seconds_of(subject, clocked, batch)
        once = seconds_of(subject, self.once, batch)
        computed, predicted = (
            {site: median(spans[site], seconds) / whole for site in self.sites}
            for spans in (clocked.readings.computed, clocked.readings.predicted)
        )
        return _Round(often / whole, once / whole, computed, predicted)

    def result(self, whole: float) -> _Clocks:
        """Medians over rounds, adjusted so that the sum over sites reproduces both whole calls on average."""

        def medians(tables: list[dict[str, float]]) -> dict[str, float]:
            return {site: whole * statistics.median(table[site] for table in tables) for site in self.sites}

        predicted = medians([timed.predicted for timed in self.rounds])
        computed = medians([timed.computed for timed in self.rounds])
        gains = {site: max(0.0, computed[site] - predicted[site]) for site in self.sites}
        # Predictions of each site in the two calls, and the seconds that both calls saved.
        events = self.steps // 2 + self.steps - 1
        calls = (statistics.median(getattr(t, name) for t in self.rounds) for name in ("often", "once"))
        saved = sum(whole * (1.0 - share) for share in calls)
        overhead = (sum(gains.values()) * events - saved) / 2.0
        if overhead < 0.0:
            # The calls saved more than the clocks account for: scale the gains, without overhead.
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
    """A schedule that runs with a clock on every site; `readings` are those of the last call."""

    module: Any = None
    readings: Readings = field(default_factory=Readings)

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        watch = Stopwatch(reader(self.module), self.readings)
        with super().enabled(pipe), observe(self.module, watch):
            yield


def seconds_of(subject: Subject, entry: BenchEntry, batch: Batch) -> float:
    """Seconds of one whole call."""
    return run_once(subject, entry, *batch).cost.seconds


def _entry(
    subject: Subject, component: str, sites: Sequence[str], steps: int, computed: range
) -> MethodEntry:
    """A schedule that computes some sites at `computed`; other denoisers compute everything."""
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
    span, other = span_of(a), span_of(b)
    return span.first <= other.last and other.first <= span.last


def spread(values: Sequence[float]) -> float:
    """Half the interquartile range, divided by the median."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2.0 / middle
