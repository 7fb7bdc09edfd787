"""Seconds of a pipeline's sites: computed, and predicted.

What a site saves is not what its own clock says: around it there is work that comes with predictions too, and
work that goes away with what it called; and remembering it costs something in every computed evaluation. So
whole calls are measured: uncached ones and, in turns with them, for each set of sites that can be predicted
together, ones in which every second evaluation is computed and ones in which evaluation 0 alone is. A line
through the latter two tells what a predicted evaluation saves; by how much it misses the uncached call where
none is predicted is what remembering costs. The clocks of single sites only share out what such a set saves.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import nn

from dcache import cost
from dcache.calls import Call
from dcache.components import denoisers
from dcache.errors import DcacheError
from dcache.eval.contest import UNCACHED, Contestant, one_call
from dcache.eval.specs import Choice
from dcache.eval.subject import Subject
from dcache.eval.watch import counting
from dcache.liveness import span_of
from dcache.profile import Latencies, Profile
from dcache.regions import Region
from dcache.schedule import Plan, Schedule
from dcache.session import Session, session_of

Batch = tuple[list[str], list[int]]
# Beyond this a predicted cost does not rank schedules.
TRUSTED = 0.05


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
    groups = apart(sites)
    inside = []
    for i, group in enumerate(groups):
        tell(f"clocks of sites, set {i + 1} of {len(groups)}")
        inside.append(_clocks(subject, component, group, steps, batch))
    often, once = range(0, steps, 2), range(1)
    choices = [_choice(subject, component, group, steps, at) for group in groups for at in (often, once)]
    taken: list[list[float]] = [[] for _ in range(len(choices) + 1)]
    for turn in range(repeats + 1):
        tell(f"timed round {turn} of {repeats}" if turn else "warm-up")
        for one, seconds in zip((UNCACHED, *choices), taken, strict=True):
            now = one_call(subject, one, *batch).cost.seconds
            if turn:
                seconds.append(now)
    uncached, *others = taken
    whole = statistics.median(uncached)
    medians = [whole * statistics.median(a / b for a, b in zip(one, uncached, strict=True)) for one in others]
    computed: dict[str, float] = {}
    predicted: dict[str, float] = {}
    flops: dict[str, float] = {}
    overhead: dict[str, float] = {}
    for clocks, many, few in zip(inside, medians[::2], medians[1::2], strict=True):
        saved = (many - few) / (len(often) - 1) if len(often) > 1 else (whole - few) / (steps - 1)
        extra = max(0.0, few + saved * (steps - 1) - whole) / len(clocks.computed)
        overhead |= dict.fromkeys(clocks.computed, extra)
        computed |= _shared(clocks.computed, clocks.predicted, saved)
        predicted |= clocks.predicted
        flops |= clocks.flops
    return Latencies(
        whole,
        {site: computed[site] for site in sites},
        {site: predicted[site] for site in sites},
        {site: flops[site] for site in sites},
        {site: overhead[site] for site in sites},
        pictures=len(batch[0]),
        spread=_spread(uncached),
    )


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
        Choice(f"schedule {i}", f"schedule {i}", method=one.canonical()) for i, one in enumerate(schedules)
    ]
    taken: list[list[float]] = [[] for _ in range(len(choices) + 1)]
    for turn in range(repeats + 1):
        for one, seconds in zip((UNCACHED, *choices), taken, strict=True):
            now = one_call(subject, one, *batch).cost.seconds
            if turn:
                seconds.append(now)
    uncached, *others = taken
    whole = statistics.median(uncached)
    found = []
    for schedule, seconds in zip(schedules, others, strict=True):
        shares = [a / b for a, b in zip(seconds, uncached, strict=True)]
        expected = cost.seconds(schedule, timed) / timed.uncached * whole
        found.append(CostCheck(expected, statistics.median(shares) * whole, _spread(shares)))
    return found


@dataclass
class _Clocks:
    """What the sites of one set took in one evaluation, medians."""

    computed: dict[str, float] = field(default_factory=dict)
    predicted: dict[str, float] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)


def _clocks(subject: Subject, component: str, group: Sequence[str], steps: int, batch: Batch) -> _Clocks:
    """Two runs that compute every second evaluation: one counts FLOPs, one looks at the clock."""
    module = denoisers(subject.pipe)[component]
    every_second = _choice(subject, component, group, steps, range(0, steps, 2))
    found = _Clocks()
    counter = counting()
    with every_second.enabled(subject.pipe), counter:
        counted = _stopwatch(_of(module), counter.get_total_flops)
        subject(*batch)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    with every_second.enabled(subject.pipe):
        timed = _stopwatch(_of(module), _reader(device))
        subject(*batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    for site in group:
        found.flops[site] = _median(counted.computed[site], lambda a, b: float(b - a))
        found.computed[site] = _median(timed.computed[site], _seconds)
        found.predicted[site] = _median(timed.predicted[site], _seconds)
    return found


Reading = Any
Spans = dict[int, list[tuple[Reading, Reading]]]


@dataclass
class _Readings:
    """Readings at the beginning and the end of every event: site -> evaluation -> one for each branch."""

    computed: dict[str, Spans] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    predicted: dict[str, Spans] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))


def _stopwatch(session: Session, read: Callable[[], Reading]) -> _Readings:
    """Read something whenever a site is entered and left, for as long as the session lives."""
    found = _Readings()
    for region in session.binding.regions:
        _time(region, region.site.name, read, found)
    return found


def _time(region: Region, site: str, read: Callable[[], Reading], found: _Readings) -> None:
    decide, remember, predict, next_of = region.decide, region.remember, region.predict, region.next_of
    began: list[Any] = [None, None]
    known = {region}

    def decided(call: Call) -> bool:
        if began[0] is not call:
            began[:] = call, read()
        return decide(call)

    def left(spans: dict[str, Spans], call: Call) -> None:
        if not call.checking:
            spans[site][call.index].append((began[1], read()))

    def remembered(call: Call, opened: Sequence[torch.Tensor | None], leaves: Sequence[Any]) -> None:
        remember(call, opened, leaves)
        left(found.computed, call)

    def predicted(call: Call, entries: Sequence[torch.Tensor | None]) -> list[Any]:
        made = predict(call, entries)
        left(found.predicted, call)
        return made

    def next_one(call: Call) -> Region:
        one = next_of(call)
        if one not in known:
            known.add(one)
            _time(one, site, read, found)
        return one

    vars(region).update(decide=decided, remember=remembered, predict=predicted, next_of=next_one)


def _of(module: nn.Module) -> Session:
    session = session_of(module)
    if session is None:
        raise DcacheError(f"nothing could be enabled on {type(module).__name__}")
    return session


def _reader(device: torch.device) -> Callable[[], Reading]:
    """What reads the time: on a GPU that of its stream."""
    if device.type != "cuda":
        return perf_counter

    def event() -> torch.cuda.Event:
        made = torch.cuda.Event(True)  # type: ignore[no-untyped-call]
        made.record(torch.cuda.current_stream(device))
        return made

    return event


def _seconds(began: Reading, ended: Reading) -> float:
    return ended - began if isinstance(began, float) else began.elapsed_time(ended) / 1000.0


def _median(spans: Spans, between: Callable[[Reading, Reading], float]) -> float:
    """Over evaluations, of the sum over branches; without the first, in which the engine checks itself."""
    usual = [spans[t] for t in sorted(spans)][1:] or list(spans.values())
    return statistics.median(sum(between(*one) for one in some) for some in usual) if usual else 0.0


def _shared(computed: Mapping[str, float], predicted: Mapping[str, float], saved: float) -> dict[str, float]:
    """Seconds to compute each site, such that all of them together save what was measured."""
    gains = {site: max(computed[site] - predicted[site], 0.0) for site in computed}
    total = sum(gains.values())
    return {
        site: max(0.0, predicted[site] + saved * (gain / total if total else 1.0 / len(gains)))
        for site, gain in gains.items()
    }


def _choice(
    subject: Subject, component: str, sites: Sequence[str], steps: int, computed: range
) -> Contestant:
    """A schedule of some sites of one denoiser; others compute everything."""
    plans = {
        name: Plan({"*": {"model": (True,) * steps}}) for name in denoisers(subject.pipe) if name != component
    }
    row = tuple(t in computed for t in range(steps))
    plans[component] = Plan({"*": dict.fromkeys(sites, row)})
    name = f"{', '.join(sites)} at {computed}"
    return Choice(name, name, method=Schedule(steps, plans, method="timing"))


def _overlap(a: str, b: str) -> bool:
    if a.startswith("bracket") or b.startswith("bracket"):
        return True
    one, other = span_of(a), span_of(b)
    return one.first <= other.last and other.first <= one.last


def _spread(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2.0 / middle
