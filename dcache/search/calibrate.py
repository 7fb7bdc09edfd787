"""Calibration: a schedule for one pipeline and one speedup.

The number of computed evaluations follows from measured seconds (`latency_model.py`). Their places come from
a local search on the final pictures (`placement.py`), the weights from a fit on them (`closed_loop.py`).
Places and weights are fitted on one part of the prompts and checked on the other. The schedule is for the
trunk (or the site that the default method caches instead), the same for all guidance branches. Other
schedules can be passed in to compete.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dcache.errors import DcacheError
from dcache.eval.bench import bench
from dcache.eval.progress import StageProgress
from dcache.eval.specs import MethodEntry
from dcache.eval.subject import Subject
from dcache.schedule import Schedule
from dcache.search.check import figures
from dcache.search.closed_loop import Share, fit, straight, with_slopes
from dcache.search.latency_model import CalibrationTarget, LinearLatency, fit_latency, observe
from dcache.search.placement import Anchors, Placed, descend, even_places, front_loaded_places
from dcache.search.render import Renderer

FEWEST_PROMPTS = 3
# A start may miss the speedup by this factor: timings are no more precise.
LEEWAY = 0.98
# Gauss-Newton steps of the weights: a second one gained less than 0.1 dB on the demo, for as many runs.
STEPS = 1


SHARES = (Share(0.0), Share(0.5), Share(1.0))
# Guidance magnifies the difference of the halves, and with it the error of extrapolating that.
PAIRED = (Share(1.0, 0.0), Share(0.5, 0.0), Share(1.0, 0.25))


@dataclass(frozen=True)
class Calibrated:
    """Result of a calibration.

    Attributes:
        schedule: the schedule, with its measured speedup and quality.
        placed: mean PSNR in dB on the checking prompts, before weights were fitted.
        fitted: mean PSNR in dB on the checking prompts, of the schedule.
        expected: speedup expected from the latency model; for a start, its first timing.
        speedup: measured speedup of the whole call.
        rendered: number of cached runs of the search and the fit.
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
    progress: StageProgress = lambda _stage: None,
) -> Calibrated:
    """Find a schedule for a speedup of the pipeline's calls.

    Args:
        subject: the pipeline and its steps, guidance and size, which the schedule is for.
        prompts: three or more; two thirds are for fitting, one third for checking.
        speedup: wanted speedup of the whole call.
        budget: most sets of places to evaluate; each takes a cached run of the fitting prompts.
        seed: seed of the first picture and of the search.
        repeats: timed calls of each.
        starts: schedules to start from. If all rows of one are equal and compute as often as the speedup
            allows, its places start a local search. Each also competes unchanged, if it is fast enough.
        progress: called with a description of each stage.

    Raises:
        DcacheError: too few prompts, no budget, a speedup out of reach, a start that does not fit, or a
            pipeline with several denoisers.
    """
    if len(prompts) < FEWEST_PROMPTS:
        raise DcacheError(
            f"expected {FEWEST_PROMPTS} or more prompts, for fitting and for checking, got {len(prompts)}"
        )
    if budget < 1:
        raise DcacheError(f"expected a budget of 1 or more sets of places to evaluate, got {budget}")
    progress("timing")
    target = observe(subject, prompts[0], seed)
    cut = max(1, len(prompts) // 3)
    latency = fit_latency(subject, target, prompts[:cut], seed, repeats)
    computes = latency.computes(speedup)
    progress("uncached pictures")
    fitting = Renderer(subject, prompts[cut:], seed + cut)
    checking = Renderer(subject, prompts[:cut], seed)
    progress(f"places of {computes} computes")
    places = [make(computes, target.steps) for make in (even_places, front_loaded_places)]
    places += starting_places(starts, computes, target.steps)
    placed, share = _search(target, fitting, places, budget, random.Random(seed))
    progress("weights")
    best = _weighed(target, placed.anchors, share, fitting, checking, latency)
    progress("timing the schedule")
    rivals = [_rival(subject, start, checking, prompts[:cut], seed, repeats) for start in starts]
    allowed = [rival for rival in rivals if rival.expected >= LEEWAY * speedup]
    best = max([best, *allowed], key=lambda candidate: candidate.fitted)
    reached = measured_speedup(subject, best.schedule, prompts[:cut], seed, repeats)
    schedule = replace(
        best.schedule,
        method=best.schedule.method if best in allowed else "calibrated",
        guidance=subject.guidance,
        measured=figures(reached, best.fitted, cut),
    )
    return replace(best, schedule=schedule, speedup=reached, rendered=fitting.rendered + checking.rendered)


def followed(target: CalibrationTarget, anchors: Anchors, share: Share) -> Schedule:
    """The schedule that computes at these places and predicts along the line through the last two anchors."""
    at = target.at(anchors)
    apart = None if share.apart is None else straight(at, share.apart)
    return with_slopes(at, straight(at, share.mean), apart)


def _search(
    target: CalibrationTarget, fitting: Renderer, places: Sequence[Anchors], budget: int, rng: random.Random
) -> tuple[Placed, Share]:
    """Local search over places, from the best pair of a start and a share; the share stays fixed."""
    shares = (*SHARES, *PAIRED) if target.paired else SHARES
    tried = [
        (fitting.quality(followed(target, start, share)), start, share)
        for start in dict.fromkeys(places)
        # If no prediction has two anchors before it, all shares are the same.
        for share in (shares if straight(target.at(start)) else shares[:1])
    ]
    _, start, share = max(tried, key=lambda trial: trial[0])
    placed = descend(
        lambda anchors: fitting.quality(followed(target, anchors, share)), start, target.steps, budget, rng
    )
    return placed, share


def _weighed(
    target: CalibrationTarget,
    anchors: Anchors,
    share: Share,
    fitting: Renderer,
    checking: Renderer,
    latency: LinearLatency,
) -> Calibrated:
    """Fit the weights for these places."""
    at = target.at(anchors)
    slopes = straight(at, share.mean)
    expected = latency.uncached / latency.seconds(len(anchors))
    if not slopes:
        quality = checking.quality(with_slopes(at, {}))
        return Calibrated(with_slopes(at, {}), quality, quality, expected, 0.0, 0)
    apart = straight(at, share.apart or 0.0) if target.paired and share.apart is not None else None
    fitted = fit(at, fitting, checking, slopes, STEPS, apart)
    return Calibrated(fitted.schedule, fitted.before, fitted.after, expected, 0.0, 0)


def starting_places(starts: Sequence[Schedule], computes: int, steps: int) -> list[Anchors]:
    """Places of the starts whose sites are all computed at the same `computes` evaluations of `steps`."""
    places = []
    for start in starts:
        rows = {
            row
            for plan in start.components.values()
            for sites in plan.rows.values()
            for row in sites.values()
        }
        anchors = tuple(t for t, computed in enumerate(rows.pop()) if computed) if len(rows) == 1 else ()
        if len(anchors) == computes and start.steps == steps and anchors[0] == 0:
            places.append(anchors)
    return places


def _rival(
    subject: Subject,
    schedule: Schedule,
    checking: Renderer,
    prompts: Sequence[str],
    seed: int,
    repeats: int,
) -> Calibrated:
    """Quality and speedup of a start, unchanged."""
    quality = checking.quality(schedule)
    expected = measured_speedup(subject, schedule, prompts, seed, repeats)
    return Calibrated(schedule, quality, quality, expected, 0.0, 0)


def measured_speedup(
    subject: Subject, schedule: Schedule, prompts: Sequence[str], seed: int, repeats: int
) -> float:
    """Measured speedup of the whole call; 0 if the pictures are broken."""
    entry = MethodEntry("calibrated", "calibrated", method=schedule)
    result = bench(subject, [entry], prompts, seed=seed, repeats=repeats, count_flops=False)
    return result.rows[0].speedup or 0.0
