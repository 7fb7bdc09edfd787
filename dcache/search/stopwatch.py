"""Clocks on a session's sites: what is read when one is entered, and when it was computed or predicted."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import nn

from dcache.engine.call import Call
from dcache.engine.region import Region
from dcache.engine.session import Session

Reading = Any
Spans = dict[int, list[tuple[Reading, Reading]]]


@dataclass
class Readings:
    """Readings at the beginning and the end of every event: site -> evaluation -> one for each branch."""

    computed: dict[str, Spans] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    predicted: dict[str, Spans] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))


def stopwatch(session: Session, read: Callable[[], Reading], into: Readings | None = None) -> Readings:
    """Read something whenever a site is entered and left, for as long as the session lives."""
    found = Readings() if into is None else into
    for region in session.binding.regions:
        _time(region, region.site.name, read, found)
    return found


def _time(region: Region, site: str, read: Callable[[], Reading], found: Readings) -> None:
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


def reader(module: nn.Module) -> Callable[[], Reading]:
    """What reads the time: on a GPU that of its stream."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    if device.type != "cuda":
        return perf_counter

    def event() -> torch.cuda.Event:
        made = torch.cuda.Event(True)  # type: ignore[no-untyped-call]
        made.record(torch.cuda.current_stream(device))
        return made

    return event


def seconds(began: Reading, ended: Reading) -> float:
    """Between two readings of the time that are over."""
    return ended - began if isinstance(began, float) else began.elapsed_time(ended) / 1000.0


def median(spans: Spans, between: Callable[[Reading, Reading], float]) -> float:
    """Over evaluations, of the sum over branches; without the first, in which the engine checks itself."""
    usual = [spans[t] for t in sorted(spans)][1:] or list(spans.values())
    return statistics.median(sum(between(*one) for one in some) for some in usual) if usual else 0.0
