"""Calibration: a schedule for one pipeline and one speedup.

The number of computed evaluations follows from measured seconds (`fitting/latency_model.py`). Their places
come from a local search on the final pictures (`fitting/placement.py`), which begins where presets and plans
compute (`fitting/starts.py`), the weights from a fit on them (`fitting/closed_loop.py`). Places and weights
are fitted on one part of the prompts and checked on the other; presets and plans compete on these. The
schedule is for the trunk (or the site that the default method caches instead), the same for all guidance
branches. Other schedules can be passed in to compete.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from torch import nn

from dcache.errors import DcacheError
from dcache.eval.entries import UNCACHED
from dcache.eval.limits import check_limit
from dcache.eval.progress import Planned, Progress, silent
from dcache.eval.specs import MethodEntry
from dcache.eval.subject import Subject
from dcache.schedule import Schedule
from dcache.search.check import figures
from dcache.search.fitting.latency_model import CalibrationTarget, Timer, fit_latency, observe
from dcache.search.fitting.placement import Anchors, even_places, front_loaded_places
from dcache.search.fitting.places import AROUND_FIT, FINALISTS, Search, shares_of
from dcache.search.fitting.starts import MOST_STARTS, observed_starts
from dcache.search.rendering.render import Renderer
from dcache.search.rendering.results import Results
from dcache.search.rendering.runs import as_prompts, as_subject

FEWEST_PROMPTS = 3
# A start may miss the speedup by this factor: timings are no more precise.
LEEWAY = 0.98
# Pictures in a call.
SIZE = 8


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
    speedup: float = 0.0
    rendered: int = 0


def calibrate(  # noqa: PLR0913
    subject: Subject | nn.Module,
    prompts: Sequence[str] | int,
    speedup: float,
    *,
    run: Callable[[int], Any] | None = None,
    budget: int = 60,
    seed: int = 0,
    repeats: int = 3,
    starts: Sequence[Schedule] = (),
    results: Results | None = None,
    progress: Progress = silent,
) -> Calibrated:
    """Find a schedule for a speedup of the pipeline's calls.

    Args:
        subject: the pipeline with its settings, which the schedule is for; with `run`, a policy or denoiser.
        prompts: three or more, or the number of runs; two thirds are for fitting, one third for checking.
        speedup: wanted speedup of the whole call.
        run: makes run number i of a loop of one's own; None calls the pipeline.
        budget: most sets of places to evaluate; each takes a cached run of the fitting prompts.
        seed: seed of the first picture and of the search.
        repeats: timed calls of each.
        starts: schedules that compete, if fast enough. One of equal rows, with as many computes, is improved.
        results: results of an earlier run of the same calibration; None keeps nothing.
        progress: called with the stage, the number of pipeline calls done, and their planned number.

    Raises:
        DcacheError: a number out of range, too few prompts, a start that does not fit, or several denoisers.
    """
    tested, prompts = as_subject(subject, run), as_prompts(prompts)
    _refuse(prompts, {"speedup": speedup, "budget": budget, "seed": seed, "repeats": repeats})
    results, cut = results or Results(), max(1, len(prompts) // 3)
    stages = Stages(len(prompts) - cut, cut, budget, repeats, progress)
    timer = Timer(results, stages.step)
    stages.timing(1)
    target = observe(tested, prompts[0], seed)
    latency = fit_latency(tested, target, prompts[:cut], seed, repeats, timer)
    computes = latency.computes(speedup)
    stages.uncached()
    fitting = Renderer(tested, prompts[cut:], seed + cut, SIZE, stages.step, results, "fitting")
    checking = Renderer(tested, prompts[:cut], seed, SIZE, stages.step, results, "checking")
    places = [make(computes, target.steps) for make in (even_places, front_loaded_places)]
    places += starting_places(starts, computes, target.steps)
    stages.begin("starts", MOST_STARTS)
    presets, slopes = observed_starts(tested, target, computes, prompts[cut], seed + cut, results)
    stages.places(computes, len(places) + len(presets), target)
    search = Search(target, fitting, checking, budget, random.Random(seed), slopes)
    best = Calibrated(**vars(search.best_of(places, presets)), expected=latency.speedup(computes))
    stages.timing(1 + len(starts))
    given = (checking, prompts[:cut], seed, repeats, timer)
    rivals = [_rival(tested, start, *given, f"start {i}") for i, start in enumerate(starts)]
    allowed = [rival for rival in rivals if rival.expected >= LEEWAY * speedup]
    best = max([best, *allowed], key=lambda candidate: candidate.fitted)
    reached = measured_speedup(tested, best.schedule, prompts[:cut], seed, repeats, timer, "result")
    if best not in allowed and best.schedule.method not in {preset.name for preset in presets}:
        best = replace(best, schedule=replace(best.schedule, method="calibrated"))
    measured = figures(reached, best.fitted, cut)
    schedule = replace(best.schedule, guidance=tested.guidance, measured=measured)
    return replace(best, schedule=schedule, speedup=reached, rendered=fitting.rendered + checking.rendered)


def _refuse(prompts: Sequence[str], limited: Mapping[str, float]) -> None:
    """Refuse too few prompts, and numbers out of their range."""
    for name, value in limited.items():
        check_limit(name, value)
    if len(prompts) < FEWEST_PROMPTS:
        raise DcacheError(
            f"expected {FEWEST_PROMPTS} or more prompts, for fitting and for checking, got {len(prompts)}"
        )


class Stages(Planned):
    """The stages of a calibration, with the pipeline calls that each takes at most.

    Args:
        fitting: number of prompts for fitting.
        checking: number of prompts for checking.
        budget: most sets of places.
        repeats: timed calls of each.
        progress: as in `calibrate`.
    """

    def __init__(self, fitting: int, checking: int, budget: int, repeats: int, progress: Progress) -> None:
        self.calls, self.checks = -(-fitting // SIZE), -(-checking // SIZE)
        self.budget, self.timed = budget, 2 * (repeats + 1)
        # The weights take about as many renderings as there are predictions to fit, here 16.
        guess = 2 * self.timed + MOST_STARTS + self.calls * (1 + budget + _trials(7, True) + 16)
        super().__init__(progress, guess)

    def timing(self, schedules: int) -> None:
        """Begin to time so many schedules, in turns with the uncached call."""
        self.begin("timing the schedule" if self.end else "timing", schedules * (self.timed + self.checks))

    def uncached(self) -> None:
        """Begin the uncached pictures."""
        self.begin("uncached pictures", self.calls + self.checks)

    def places(self, computes: int, starts: int, target: CalibrationTarget) -> None:
        """Begin the search of places, and of weights for them."""
        slopes = (target.steps - computes) * (2 if target.paired else 1)
        tried = _trials(starts, target.paired) + self.budget + slopes + AROUND_FIT
        self.begin(f"{computes} computes", self.calls * tried + self.checks * (starts + 4))


def _trials(starts: int, paired: bool) -> int:
    """Renderings of so many starts before the local search."""
    first, rest = shares_of(paired, planned=True)
    return starts * len(first) + FINALISTS * len(rest)


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
    timer: Timer,
    stage: str,
) -> Calibrated:
    """Quality and speedup of a start, unchanged."""
    quality = checking.quality(schedule)
    speedup = 0.0
    if isfinite(quality):
        speedup = measured_speedup(subject, schedule, prompts, seed, repeats, timer, stage)
    return Calibrated(schedule, quality, quality, speedup)


def measured_speedup(
    subject: Subject,
    schedule: Schedule,
    prompts: Sequence[str],
    seed: int,
    repeats: int,
    timer: Timer,
    stage: str,
) -> float:
    """Measured speedup of the whole call; `stage` names the timings in the timer's results."""
    entry = MethodEntry("calibrated", "calibrated", method=schedule)
    uncached, cached = timer.medians(subject, stage, [UNCACHED, entry], prompts, seed, repeats)
    return uncached / cached
