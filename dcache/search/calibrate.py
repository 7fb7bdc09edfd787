"""A schedule for one pipeline and one speedup: how often to compute, where, and with which weights.

How often follows from measured seconds (`pace.py`); where, from a local search on the final pictures
(`placing.py`); the weights are fitted on them (`closed_loop.py`). Prompts are parted: places and weights come
from one part, what is kept of them is decided on the other. The trunk (or what the default remembers) is
scheduled, with all guidance branches together; schedules of any other kind can be handed in to compete.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dcache.errors import DcacheError
from dcache.eval.bench import bench
from dcache.eval.specs import MethodEntry
from dcache.eval.subject import Subject
from dcache.schedule import Schedule
from dcache.search.check import figures
from dcache.search.closed_loop import Share, fit, straight, with_slopes
from dcache.search.latency_model import CalibrationTarget, LinearLatency, fit_latency, observe
from dcache.search.observation_runs import Tell
from dcache.search.placement import Anchors, Placed, descend, even_places, front_loaded_places
from dcache.search.render import Renderer

FEWEST_PROMPTS = 3
# A schedule that was handed in may be this much slower than asked: seconds are not known better.
LEEWAY = 0.98
# Gauss-Newton steps of the weights: a second one gained less than 0.1 dB on the demo, for as many runs.
STEPS = 1


SHARES = (Share(0.0), Share(0.5), Share(1.0))
# Guidance magnifies the difference between the halves, and what a line does to it.
PAIRED = (Share(1.0, 0.0), Share(0.5, 0.0), Share(1.0, 0.25))


@dataclass(frozen=True)
class Calibrated:
    """What was found.

    Attributes:
        schedule: with its measured cost and quality.
        placed: mean PSNR of the places before weights were fitted, on the checking prompts, in dB.
        fitted: the same of the schedule.
        expected: speedup by the pace; of a schedule that was handed in, by a first timing.
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
    starts: Sequence[Schedule] = (),
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
        starts: schedules to begin with. One whose rows are all equal gives its places, if they are as many as
            can be afforded; every one competes as it is, if it is fast enough.
        tell: called with what is under way.

    Raises:
        DcacheError: too few prompts, no budget, a speedup that cannot be had, a start that does not fit, or a
            pipeline with several denoisers.
    """
    if len(prompts) < FEWEST_PROMPTS:
        raise DcacheError(
            f"expected {FEWEST_PROMPTS} or more prompts, to fit on and to check on: {len(prompts)}"
        )
    if budget < 1:
        raise DcacheError(f"expected a budget of 1 or more sets of places to look at, got {budget}")
    tell("timing")
    base = observe(subject, prompts[0], seed)
    cut = max(1, len(prompts) // 3)
    known = fit_latency(subject, base, prompts[:cut], seed, repeats)
    computes = known.computes(speedup)
    tell("uncached pictures")
    fitting = Renderer(subject, prompts[cut:], seed + cut)
    checking = Renderer(subject, prompts[:cut], seed)
    tell(f"places of {computes} computes")
    places = [make(computes, base.steps) for make in (even_places, front_loaded_places)]
    places += starting_places(starts, computes, base.steps)
    found, share = _search(base, fitting, places, budget, random.Random(seed))
    tell("weights")
    best = _weighed(base, found.anchors, share, fitting, checking, known)
    tell("timing the schedule")
    rivals = [_rival(subject, one, checking, prompts[:cut], seed, repeats) for one in starts]
    allowed = [one for one in rivals if one.expected >= LEEWAY * speedup]
    best = max([best, *allowed], key=lambda one: one.fitted)
    reached = measured_speedup(subject, best.schedule, prompts[:cut], seed, repeats)
    schedule = replace(
        best.schedule,
        method=best.schedule.method if best in allowed else "calibrated",
        guidance=subject.guidance,
        measured=figures(reached, best.fitted, cut),
    )
    return replace(best, schedule=schedule, speedup=reached, rendered=fitting.rendered + checking.rendered)


def followed(base: CalibrationTarget, anchors: Anchors, share: Share) -> Schedule:
    """Computed at these places, predicted along the lines through the last two."""
    at = base.at(anchors)
    apart = None if share.apart is None else straight(at, share.apart)
    return with_slopes(at, straight(at, share.mean), apart)


def _search(
    base: CalibrationTarget, fitting: Renderer, places: Sequence[Anchors], budget: int, rng: random.Random
) -> tuple[Placed, Share]:
    """Take the best of the starts, with the share that suits it, and move on from there."""
    shares = (*SHARES, *PAIRED) if base.paired else SHARES
    tried = [
        (fitting.quality(followed(base, start, one)), start, one)
        for start in dict.fromkeys(places)
        # Where nothing has two anchors before it, every share is the same.
        for one in (shares if straight(base.at(start)) else shares[:1])
    ]
    _, start, share = max(tried, key=lambda one: one[0])
    found = descend(
        lambda anchors: fitting.quality(followed(base, anchors, share)), start, base.steps, budget, rng
    )
    return found, share


def _weighed(
    base: CalibrationTarget,
    anchors: Anchors,
    share: Share,
    fitting: Renderer,
    checking: Renderer,
    known: LinearLatency,
) -> Calibrated:
    """Fit the weights of these places."""
    at = base.at(anchors)
    slopes = straight(at, share.mean)
    expected = known.uncached / known.seconds(len(anchors))
    if not slopes:
        quality = checking.quality(with_slopes(at, {}))
        return Calibrated(with_slopes(at, {}), quality, quality, expected, 0.0, 0)
    apart = straight(at, share.apart or 0.0) if base.paired and share.apart is not None else None
    fitted = fit(at, fitting, checking, slopes, STEPS, apart)
    return Calibrated(fitted.schedule, fitted.before, fitted.after, expected, 0.0, 0)


def starting_places(starts: Sequence[Schedule], computes: int, steps: int) -> list[Anchors]:
    """The places of the schedules that compute everything at the same evaluations, as often as asked."""
    found = []
    for one in starts:
        rows = {
            row for plan in one.components.values() for sites in plan.rows.values() for row in sites.values()
        }
        anchors = tuple(t for t, computed in enumerate(rows.pop()) if computed) if len(rows) == 1 else ()
        if len(anchors) == computes and one.steps == steps and anchors[0] == 0:
            found.append(anchors)
    return found


def _rival(
    subject: Subject,
    schedule: Schedule,
    checking: Renderer,
    prompts: Sequence[str],
    seed: int,
    repeats: int,
) -> Calibrated:
    """A schedule as it was handed in."""
    quality = checking.quality(schedule)
    expected = measured_speedup(subject, schedule, prompts, seed, repeats)
    return Calibrated(schedule, quality, quality, expected, 0.0, 0)


def measured_speedup(
    subject: Subject, schedule: Schedule, prompts: Sequence[str], seed: int, repeats: int
) -> float:
    """Measured, of the whole call; 0 where the pictures are broken."""
    choice = MethodEntry("calibrated", "calibrated", method=schedule)
    done = bench(subject, [choice], prompts, seed=seed, repeats=repeats, count_flops=False)
    return done.rows[0].speedup or 0.0
