"""A schedule for one pipeline and one speedup: how often to compute, where, and with which weights.

How often follows from measured seconds; where, from a local search on the final pictures; the weights are
fitted on them (`dcache.search.closed_loop`). Prompts are parted: places and weights come from one part, what
is kept of them is decided on the other. Only the trunk (or what the default remembers) is scheduled, with
all guidance branches together.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import dcache
from dcache.errors import DcacheError
from dcache.eval.bench import bench
from dcache.eval.contest import UNCACHED, one_call
from dcache.eval.machine import machine, versions
from dcache.eval.specs import Choice
from dcache.eval.subject import Subject
from dcache.schedule import Schedule
from dcache.search.closed_loop import fit, straight, with_slopes
from dcache.search.placing import Anchors, descend, even
from dcache.search.render import Renderer

# Shares of the way along the line through the last two anchors: reuse, half, all.
SHARES = (0.0, 0.5, 1.0)
FEWEST_PROMPTS = 3
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Pace:
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
class Calibrated:
    """What was found.

    Attributes:
        schedule: with its measured cost and quality.
        placed: mean PSNR of the places before weights were fitted, on the checking prompts, in dB.
        fitted: the same of the schedule.
        expected: speedup by the pace.
        speedup: measured, of the whole call.
        rendered: cached runs of the search and the fit.
    """

    schedule: Schedule
    placed: float
    fitted: float
    expected: float
    speedup: float
    rendered: int


def calibrate(
    subject: Subject,
    prompts: Sequence[str],
    speedup: float,
    *,
    budget: int = 60,
    seed: int = 0,
    repeats: int = 3,
    tell: Tell = lambda _what: None,
) -> Calibrated:
    """Find a schedule that makes the pipeline's calls this much faster.

    Args:
        subject: the pipeline and its steps, guidance and size, which the schedule is for.
        prompts: three or more; two thirds to fit on, one third to check on.
        speedup: of the whole call.
        budget: most sets of places to look at; each costs a cached run of the fitting prompts.
        seed: of the pictures and of the search.
        repeats: calls of each that are timed.
        tell: called with what is under way.

    Raises:
        DcacheError: too few prompts, a speedup that cannot be had, or a pipeline with several denoisers.
    """
    if len(prompts) < FEWEST_PROMPTS:
        raise DcacheError(
            f"expected {FEWEST_PROMPTS} or more prompts, to fit on and to check on: {len(prompts)}"
        )
    tell("timing")
    base = _observed(subject, prompts[0], seed)
    cut = max(1, len(prompts) // 3)
    pace = _pace(subject, base, prompts[:cut], seed, repeats)
    computes = pace.computes(speedup)
    tell("uncached pictures")
    fitting = Renderer(subject, prompts[cut:], seed + cut)
    checking = Renderer(subject, prompts[:cut], seed)
    start = even(computes, base.steps)

    def followed(anchors: Anchors, share: float) -> Schedule:
        at = _at(base, anchors)
        return with_slopes(at, straight(at, share))

    tell(f"places of {computes} computes")
    share = max(SHARES, key=lambda one: fitting.quality(followed(start, one)))
    found = descend(
        lambda anchors: fitting.quality(followed(anchors, share)),
        start,
        base.steps,
        budget,
        random.Random(seed),
    )
    placed = followed(found.anchors, share)
    tell("weights")
    slopes = straight(placed, share)
    fitted = fit(placed, fitting, checking, slopes) if slopes else None
    quality = checking.quality(placed) if fitted is None else fitted.after
    schedule = placed if fitted is None else fitted.schedule
    tell("timing the schedule")
    reached = _speedup(subject, schedule, prompts[:cut], seed, repeats)
    measured = {
        "speedup": round(reached, 3),
        "psnr": round(quality, 2),
        "prompts": cut,
        "machine": machine(),
        "versions": versions(),
    }
    return Calibrated(
        replace(schedule, method="calibrated", guidance=subject.guidance, measured=measured),
        quality if fitted is None else fitted.before,
        quality,
        pace.uncached / pace.seconds(computes),
        reached,
        fitting.rendered + checking.rendered,
    )


def _speedup(subject: Subject, schedule: Schedule, prompts: Sequence[str], seed: int, repeats: int) -> float:
    """Measured, of the whole call; 0 where the pictures are broken."""
    choice = Choice("calibrated", "calibrated", method=schedule)
    done = bench(subject, [choice], prompts, seed=seed, repeats=repeats, count_flops=False)
    return done.rows[0].speedup or 0.0


def _observed(subject: Subject, prompt: str, seed: int) -> Schedule:
    """The sites that the default remembers, and how many evaluations there are, from one run."""
    method = dcache.methods.interval(interval=2)
    outcome = one_call(subject, Choice("interval", "interval", method=method), [prompt], [seed])
    trace = outcome.trace
    if trace is None or len(trace.components) != 1:
        count = 0 if trace is None else len(trace.components)
        raise DcacheError(f"a schedule is calibrated for one denoiser; this pipeline's run showed {count}")
    return trace


def _at(base: Schedule, anchors: Anchors) -> Schedule:
    """The same sites, all computed at these evaluations."""
    ((name, plan),) = base.components.items()
    row = tuple(t in anchors for t in range(base.steps))
    rows = {"*": dict.fromkeys(plan.sites, row)}
    at = replace(plan, rows=rows, predictor="reuse", parameters={}, clock="step")
    return replace(base, components={name: at}, measured={})


def _pace(subject: Subject, base: Schedule, prompts: Sequence[str], seed: int, repeats: int) -> Pace:
    """Time both ends in turns, on a batch of these prompts, after a call of each to warm up."""
    fewest = Choice("one", "one", method=with_slopes(_at(base, (0,)), {}))
    seeds = [seed + i for i in range(len(prompts))]
    taken: dict[str, list[float]] = {UNCACHED.spec: [], fewest.spec: []}
    for turn in range(repeats + 1):
        for one in (UNCACHED, fewest):
            seconds = one_call(subject, one, prompts, seeds).cost.seconds
            if turn:
                taken[one.spec].append(seconds)
    return Pace(base.steps, statistics.median(taken[UNCACHED.spec]), statistics.median(taken[fewest.spec]))
