"""How often can be computed: seconds of a call by the number of computes, from two timed ends."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

import dcache
from dcache.errors import DcacheError
from dcache.eval.entries import UNCACHED, run_once
from dcache.eval.specs import MethodEntry
from dcache.eval.subject import Subject
from dcache.intercept.pytree import batch_of
from dcache.predictors.guided_pair import halves_equal
from dcache.schedule import Schedule
from dcache.search.closed_loop import with_slopes
from dcache.search.placement import Anchors


@dataclass(frozen=True)
class LinearLatency:
    """Seconds of a pipeline call by the number of computed evaluations: a line through two measured points.

    Attributes:
        steps: number of evaluations.
        uncached: seconds without caching.
        fewest: seconds with one evaluation computed.
    """

    steps: int
    uncached: float
    fewest: float

    def seconds(self, computes: int) -> float:
        """Of a call with so many computes."""
        share = (computes - 1) / max(self.steps - 1, 1)
        return self.fewest + share * (self.uncached - self.fewest)

    def computes(self, speedup: float) -> int:
        """The most computes that are still that fast.

        Raises:
            DcacheError: even one compute is slower, or the speedup is none.
        """
        most = self.uncached / self.fewest
        if not 1 < speedup <= most:
            raise DcacheError(
                f"a speedup of {speedup:g} cannot be had: expected more than 1 and at most {most:.2f}, what "
                "one computed evaluation gives here (the rest of the call is not cached)"
            )
        return max(k for k in range(1, self.steps + 1) if self.uncached / self.seconds(k) >= speedup)


@dataclass(frozen=True)
class CalibrationTarget:
    """What is scheduled.

    Attributes:
        trace: of a run of the default: its sites, and how many evaluations there are.
        paired: whether guidance makes one batch of both branches.
    """

    trace: Schedule
    paired: bool

    @property
    def steps(self) -> int:
        """Evaluations of a run."""
        return self.trace.steps

    def at(self, anchors: Anchors) -> Schedule:
        """The same sites, all computed at these evaluations, predicted by reuse."""
        ((name, plan),) = self.trace.components.items()
        row = tuple(t in anchors for t in range(self.steps))
        rows = {"*": dict.fromkeys(plan.sites, row)}
        at = replace(plan, rows=rows, predictor="reuse", parameters={}, clock="step")
        return replace(self.trace, components={name: at}, measured={})


def observe(subject: Subject, prompt: str, seed: int) -> CalibrationTarget:
    """Run the default once, with one picture, and look at what it remembers.

    Raises:
        DcacheError: the pipeline has several denoisers.
    """
    halves = paired(subject, prompt, seed)
    method = dcache.methods.interval(interval=2)
    trace = run_once(subject, MethodEntry("interval", "interval", method=method), [prompt], [seed]).trace
    if trace is None or len(trace.components) != 1:
        count = 0 if trace is None else len(trace.components)
        raise DcacheError(f"a schedule is calibrated for one denoiser; this pipeline's run showed {count}")
    return CalibrationTarget(trace, halves)


def paired(subject: Subject, prompt: str, seed: int) -> bool:
    """Whether guidance makes one batch of both branches, seen in an uncached call of one picture."""
    seen: list[bool] = []

    def look(_module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(halves_equal(batch_of(args, kwargs)))

    hooks = [one.register_forward_pre_hook(look, with_kwargs=True) for one in subject.denoisers]
    try:
        run_once(subject, UNCACHED, [prompt], [seed])
    finally:
        for hook in hooks:
            hook.remove()
    return bool(seen) and all(seen)


def fit_latency(
    subject: Subject, base: CalibrationTarget, prompts: Sequence[str], seed: int, repeats: int
) -> LinearLatency:
    """Time both ends in turns, on a batch of these prompts, after a call of each to warm up."""
    fewest = MethodEntry("one", "one", method=with_slopes(base.at((0,)), {}))
    seeds = [seed + i for i in range(len(prompts))]
    taken: dict[str, list[float]] = {UNCACHED.spec: [], fewest.spec: []}
    for turn in range(repeats + 1):
        for one in (UNCACHED, fewest):
            seconds = run_once(subject, one, prompts, seeds).cost.seconds
            if turn:
                taken[one.spec].append(seconds)
    return LinearLatency(
        base.steps, statistics.median(taken[UNCACHED.spec]), statistics.median(taken[fewest.spec])
    )
