"""A clock on every site of a denoiser: read when the site is entered and when it is left."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import nn

from dcache.engine.call import Call
from dcache.engine.observe import Observer

Reading = Any
Spans = dict[int, list[tuple[Reading, Reading]]]


@dataclass
class Readings:
    """Readings at the beginning and the end of every event: site -> evaluation -> one for each branch."""

    computed: dict[str, Spans] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    predicted: dict[str, Spans] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))


class Stopwatch(Observer):
    """Reads something whenever a site is entered and left.

    Args:
        read: gives the reading.
        readings: takes them; new ones if None.
    """

    sees_outputs = False

    def __init__(self, read: Callable[[], Reading], readings: Readings | None = None) -> None:
        self.read = read
        self.readings = Readings() if readings is None else readings
        self._began: dict[str, Reading] = {}

    def on_enter(self, site: str, call: Call) -> None:
        """Begin."""
        self._began[site] = self.read()

    def on_leave(self, site: str, call: Call, computed: bool) -> None:
        """End."""
        if not call.checking and site in self._began:
            spans = self.readings.computed if computed else self.readings.predicted
            spans[site][call.index].append((self._began[site], self.read()))


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
