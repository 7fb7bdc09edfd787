"""Timing of the sites of a denoiser: a clock is read on entry and exit of every site."""

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
from dcache.engine.observe import Observer, observe
from dcache.eval.call_cost import counting

Reading = Any
Spans = dict[int, list[tuple[Reading, Reading]]]


@dataclass
class Readings:
    """Start and end readings: site -> evaluation -> one pair for each branch."""

    computed: dict[str, Spans] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    predicted: dict[str, Spans] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))


class Stopwatch(Observer):
    """Calls `read` on entry and exit of every site.

    Args:
        read: returns the current reading, such as a time or a FLOP count.
        readings: receives the readings; None makes a new one.
    """

    sees_outputs = False

    def __init__(self, read: Callable[[], Reading], readings: Readings | None = None) -> None:
        self.read = read
        self.readings = Readings() if readings is None else readings
        self._began: dict[str, Reading] = {}

    def on_enter(self, site: str, call: Call) -> None:
        """Read at the start."""
        self._began[site] = self.read()

    def on_leave(self, site: str, call: Call, computed: bool) -> None:
        """Read at the end; the engine's self-check does not count."""
        if not call.checking and site in self._began:
            spans = self.readings.computed if computed else self.readings.predicted
            spans[site][call.index].append((self._began[site], self.read()))


def flops_of_sites(module: nn.Module, run: Callable[[], Any]) -> dict[str, float]:
    """FLOPs of each site in one evaluation, the sum over branches.

    Args:
        module: a denoiser, with a method enabled that computes all sites in some evaluation behind the first.
        run: makes a run; it is counted.
    """
    counter = counting()
    watch = Stopwatch(counter.get_total_flops)
    with counter, observe(module, watch):
        run()
    return {site: median(spans, lambda a, b: float(b - a)) for site, spans in watch.readings.computed.items()}


def reader(module: nn.Module) -> Callable[[], Reading]:
    """A function that reads the time: a CUDA event on the current stream, or `perf_counter` on a CPU."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    if device.type != "cuda":
        return perf_counter

    def read_event() -> torch.cuda.Event:
        event = torch.cuda.Event(True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event

    return read_event


def seconds(began: Reading, ended: Reading) -> float:
    """Seconds between two readings; on a GPU both events must be complete."""
    return ended - began if isinstance(began, float) else began.elapsed_time(ended) / 1000.0


def median(spans: Spans, between: Callable[[Reading, Reading], float]) -> float:
    """Median over evaluations of the sum over branches; the first is dropped, it includes the self-check."""
    usual = [spans[t] for t in sorted(spans)][1:] or list(spans.values())
    return statistics.median(sum(between(*span) for span in branches) for branches in usual) if usual else 0.0
