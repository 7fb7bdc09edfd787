"""Latency model: seconds of a call by the number of computed evaluations, from two timed calls."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

import dcache
from dcache.errors import DcacheError
from dcache.eval.entries import UNCACHED, BenchEntry, run_once
from dcache.eval.specs import MethodEntry
from dcache.eval.subject import Subject
from dcache.intercept.pytree import batch_of
from dcache.predictors.guided_pair import halves_equal
from dcache.schedule import Schedule
from dcache.search.fitting.closed_loop import with_slopes
from dcache.search.fitting.placement import Anchors
from dcache.search.rendering.results import Results


@dataclass(frozen=True)
class LinearLatency:
    """Seconds of a pipeline call as a linear function of the number of computed evaluations.

    Attributes:
        steps: number of evaluations.
        uncached: seconds without caching.
        fewest: seconds with one evaluation computed.
    """

    steps: int
    uncached: float
    fewest: float

    def seconds(self, computes: int) -> float:
        """Seconds of a call with this many computed evaluations."""
        share = (computes - 1) / max(self.steps - 1, 1)
        return self.fewest + share * (self.uncached - self.fewest)

    def speedup(self, computes: int) -> float:
        """Speedup of a call with this many computed evaluations."""
        return self.uncached / self.seconds(computes)

    def computes(self, speedup: float) -> int:
        """Largest number of computed evaluations that reaches a speedup.

        Raises:
            DcacheError: the speedup is not above 1, or not even one computed evaluation reaches it.
        """
        most = self.uncached / self.fewest
        if not 1 < speedup <= most:
            raise DcacheError(
                f"expected a speedup above 1 and at most {most:.2f} (that of one computed evaluation; the "
                f"rest of the call is not cached), got {speedup:g}"
            )
        return max(k for k in range(1, self.steps + 1) if self.uncached / self.seconds(k) >= speedup)


@dataclass(frozen=True)
class CalibrationTarget:
    """The sites and evaluations that a calibration schedules.

    Attributes:
        trace: trace of a run with the default sites.
        paired: whether guidance makes one batch of both branches.
    """

    trace: Schedule
    paired: bool

    @property
    def steps(self) -> int:
        """Number of evaluations of a run."""
        return self.trace.steps

    def at(self, anchors: Anchors) -> Schedule:
        """The schedule that computes all sites at these evaluations and predicts by reuse."""
        ((name, plan),) = self.trace.components.items()
        row = tuple(t in anchors for t in range(self.steps))
        rows = {"*": dict.fromkeys(plan.sites, row)}
        at = replace(plan, rows=rows, predictor="reuse", parameters={}, clock="step")
        return replace(self.trace, components={name: at}, measured={})


def observe(subject: Subject, prompt: str, seed: int) -> CalibrationTarget:
    """Find out what to schedule, from a run of one picture with the default sites.

    Raises:
        DcacheError: the pipeline does not have exactly one denoiser.
    """
    halves = paired(subject, prompt, seed)
    method = dcache.methods.interval(interval=2)
    trace = run_once(subject, MethodEntry("interval", "interval", method=method), [prompt], [seed]).trace
    if trace is None or len(trace.components) != 1:
        count = 0 if trace is None else len(trace.components)
        raise DcacheError(f"expected a pipeline with one denoiser to calibrate, got {count}")
    return CalibrationTarget(trace, halves)


def paired(subject: Subject, prompt: str, seed: int) -> bool:
    """Whether guidance makes one batch of both branches, observed in an uncached call of one picture."""
    seen: list[bool] = []

    def look(_module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(halves_equal(batch_of(args, kwargs)))

    hooks = [module.register_forward_pre_hook(look, with_kwargs=True) for module in subject.denoisers]
    try:
        run_once(subject, UNCACHED, [prompt], [seed])
    finally:
        for hook in hooks:
            hook.remove()
    return bool(seen) and all(seen)


def fit_latency(
    subject: Subject,
    target: CalibrationTarget,
    prompts: Sequence[str],
    seed: int,
    repeats: int,
    timer: Timer | None = None,
) -> LinearLatency:
    """Time the uncached call and the cheapest one in turns, on one batch, after a warm-up call of each."""
    fewest = MethodEntry("one", "one", method=with_slopes(target.at((0,)), {}))
    seconds = (timer or Timer()).medians(subject, "latency", [UNCACHED, fewest], prompts, seed, repeats)
    return LinearLatency(target.steps, *seconds)


@dataclass(frozen=True)
class Timer:
    """Times calls in turns.

    Attributes:
        results: the seconds of earlier runs, and of this one.
        progress: called after each call.
    """

    results: Results = field(default_factory=Results)
    progress: Callable[[], None] = lambda: None

    def medians(
        self,
        subject: Subject,
        stage: str,
        entries: Sequence[BenchEntry],
        prompts: Sequence[str],
        seed: int,
        repeats: int,
    ) -> list[float]:
        """Median seconds of a call of each entry, in turns, after a warm-up call of each.

        Args:
            subject: the pipeline.
            stage: name of these timings, unique within the results.
            entries: the methods; their `spec` is unique.
            prompts: one batch.
            seed: picture i has seed + i.
            repeats: timed calls of each.
        """
        seeds = [seed + i for i in range(len(prompts))]

        def seconds(entry: BenchEntry) -> float:
            taken = run_once(subject, entry, prompts, seeds).cost.seconds
            self.progress()
            return taken

        names = {
            (turn, e.spec): f"{stage}:{turn}:{e.spec}" for turn in range(1, repeats + 1) for e in entries
        }
        if not all(map(self.results.has, names.values())):
            for entry in entries:
                seconds(entry)
        taken: dict[str, list[float]] = {entry.spec: [] for entry in entries}
        for turn in range(1, repeats + 1):
            for entry in entries:
                name = names[turn, entry.spec]
                taken[entry.spec].append(self.results.number(name, partial(seconds, entry)))
        return [statistics.median(values) for values in taken.values()]
