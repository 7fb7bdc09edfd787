"""`dcache.refine`: a better plan for `tuned`, calibrated in place on a pipeline's own pictures.

`tuned` plans from one observed call, without rendering. This searches places and weights for the same number
of computed evaluations on rendered pictures, as `dcache calibrate` does, and keeps the plan beside what was
observed of that kind of call: `enable(pipe, speedup=...)` uses it from then on, in later processes too.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from torch import nn

import dcache
from dcache.errors import DcacheError, DcacheWarning
from dcache.eval.limits import check_limit
from dcache.eval.progress import Planned, Progress, silent
from dcache.eval.prompts import digest
from dcache.eval.subject import Subject
from dcache.method import Aim, Method
from dcache.observation.tuning import folder
from dcache.observation.tuning.kind import Kind
from dcache.observation.tuning.learned import Learned, Refined
from dcache.observation.tuning.tuner import aim_of, computes_of, keep, learned_of, unreached
from dcache.schedule import Schedule
from dcache.schedulers.planners.tuned import speedup_of
from dcache.search.fitting.latency_model import observe
from dcache.search.fitting.placement import even_places, front_loaded_places
from dcache.search.fitting.places import Found, Search
from dcache.search.fitting.starts import Start, Terms, planned_slopes, starts_of
from dcache.search.rendering.journal import Journal
from dcache.search.rendering.render import Renderer
from dcache.search.rendering.results import Results, resumable
from dcache.search.rendering.runs import as_prompts, as_subject
from dcache.util.checks import check_number, check_whole

# A plan that is fitted on fewer gains on them and loses on others (docs/calibrate.md).
FEWEST_PROMPTS = 8
# Sets of places: in practice the time ends the search.
BUDGET = 400


@dataclass(frozen=True)
class Refinement:
    """What a refinement reached.

    Attributes:
        schedule: the schedule.
        speedup: floating-point operations of the uncached call over those of the refined one.
        planned: mean PSNR in dB of the plan from one observed call, on prompts that nothing was fitted on.
        psnr: the same of the refined plan; at least `planned`.
        prompts: number of prompts that it was fitted on.
        seconds: wall clock.
    """

    schedule: Schedule
    speedup: float
    planned: float
    psnr: float
    prompts: int
    seconds: float


def refine(
    target: Any,
    prompts: Sequence[str] | int,
    minutes: float = 10.0,
    *,
    speedup: float | None = None,
    run: Callable[[int], Any] | None = None,
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress = silent,
    **call: Any,
) -> Refinement:
    """Calibrate the plan of `enable(target, speedup=...)` in place, and keep it for calls of this kind.

    Two thirds of the prompts are fitted on, one third is checked on. The plan from one observed call and the
    presets of equal work compete on the checked prompts, so the result is never below them there. A
    refinement that was killed goes on where it stopped, if it is called again with the same arguments.

    >>> import dcache
    >>> from dcache.demo.pipeline import call_options, load_pipeline
    >>> from dcache.demo.task import prompts
    >>> pipe = dcache.enable(load_pipeline(), speedup=1.3)
    >>> options = call_options() | {"num_inference_steps": 3}
    >>> result = dcache.refine(pipe, prompts(8), minutes=0.01, **options)
    >>> result.psnr >= result.planned
    True
    >>> image = pipe("a red circle", **options).images[0]
    >>> dcache.stats(pipe).plan.partition(" prompts")[0]
    'planned by dcache.refine from 6'

    Args:
        target: a pipeline with one denoiser; with `run`, a policy or denoiser.
        prompts: eight or more, such as those that will be called with; with `run`, the number of runs.
        minutes: time for all of it; what is begun is finished, so that it takes a little longer.
        speedup: as for `enable`; None is that of the method enabled now, or 2. One that no plan reaches is
            warned of.
        run: makes run number i of a loop of one's own; None calls the pipeline.
        seed: seed of the first picture and of the search.
        batch_size: pictures in a call.
        progress: called with the stage, the number of calls done, and their planned number.
        **call: options of the pipeline's calls, as these will have them: steps, guidance, size.

    Raises:
        DcacheError: a number out of range, too few prompts, an option that the call does not take, several
            denoisers, or a call that cannot be planned.
    """
    began = perf_counter()
    subject = as_subject(target, run) if run is not None else _subject(target, call)
    texts = prompts if isinstance(prompts, str) else as_prompts(prompts)
    _check(texts, {"minutes": minutes, "seed": seed, "batch_size": batch_size})
    module = _denoiser(subject)
    aim = Aim(check_number("speedup", speedup, 1.0), None) if speedup is not None else aim_of(module)
    job = _Job(subject, texts, aim or Aim(2.0, None), seed, batch_size, began + 60.0 * minutes, progress)
    return job.refined(module, began)


@dataclass
class _Job:
    """A refinement under way.

    Attributes:
        end: time at which it should be over.
    """

    subject: Subject
    prompts: Sequence[str]
    aim: Aim
    seed: int
    batch_size: int
    end: float
    progress: Progress
    # When the search began, and how many calls of the pipeline it has made since.
    began: float = 0.0
    calls: int = 0

    @property
    def checked_on(self) -> int:
        """Number of prompts for checking."""
        return len(self.prompts) // 3

    @property
    def fitted_on(self) -> int:
        """Number of prompts for fitting."""
        return len(self.prompts) - self.checked_on

    @property
    def calls_each(self) -> int:
        """Calls of the pipeline for a rendering of the fitting prompts."""
        return -(-self.fitted_on // self.batch_size)

    def refined(self, module: nn.Module, began: float) -> Refinement:
        """Refine the plan of a denoiser, and keep it."""
        with _quiet():
            kind, learned = _observed(self.subject, module, self.aim, self.prompts[0], self.seed)
        computes = computes_of(self.aim, learned)
        if missed := unreached(self.aim, learned):
            _warn(missed)
        # What is enabled now is in force again afterwards; computing all has the uncached bits.
        everything = dcache.methods.interval(interval=1)
        with _quiet(), dcache.enabled(self.subject.pipe, everything), _results(kind, self) as results:
            found, planned = self.best(learned, computes, results)
        plans = {**learned.refined, computes: _as_refined(found, self.fitted_on)}
        keep(module, kind, replace(learned, refined=plans), _warn)
        reached = speedup_of(computes, len(learned.observed.taus), learned.share)
        took = perf_counter() - began
        schedule = replace(found.schedule, method="refined", guidance=self.subject.guidance)
        return Refinement(schedule, reached, planned, found.fitted, self.fitted_on, took)

    def best(self, learned: Learned, computes: int, results: Results) -> tuple[Found, float]:
        """The best schedule of so many computes, and the PSNR of the plan from one observed call."""
        cut, subject, seed = self.checked_on, self.subject, self.seed
        target = observe(subject, self.prompts[0], seed)
        if len(learned.observed.taus) != target.steps:
            raise DcacheError(
                f"refine needs a denoiser that is called in every evaluation, and this one is called in "
                f"{len(learned.observed.taus)} of {target.steps}: use its plan as it is"
            )
        if computes >= target.steps:
            raise DcacheError(
                f"there is nothing to refine: all {target.steps} evaluations are computed. Ask for a higher "
                "speedup"
            )
        stages = Planned(self.progress)
        stages.begin("refining", self.calls_each * (BUDGET + target.steps))
        fitting = self._renderer(slice(cut, None), "fitting", stages, results)
        checking = self._renderer(slice(0, cut), "checking", stages, results)
        before = learned.refined.get(computes)
        starts = [] if before is None else [Start("refined", before.computed, Terms(*before[:4]))]
        given = (subject, target, computes, self.prompts[cut], seed + cut, results)
        starts += starts_of(*given, learned.observed)
        slopes = planned_slopes(target, computes, learned.observed)
        self.began, self.calls = perf_counter(), 0
        search = Search(target, fitting, checking, BUDGET, random.Random(seed), slopes, self._late)
        places = [make(computes, target.steps) for make in (even_places, front_loaded_places)]
        found = search.best_of(places, starts)
        plans = (start.schedule(target) for start in starts if start.name == "tuned")
        return found, next((checking.quality(plan) for plan in plans if plan is not None), found.fitted)

    def _renderer(self, part: slice, name: str, stages: Planned, results: Results) -> Renderer:
        def called() -> None:
            self.calls += 1
            stages.step()

        seed = self.seed + (part.start or 0)
        return Renderer(self.subject, self.prompts[part], seed, self.batch_size, called, results, name)

    def _late(self, renderings: int) -> bool:
        """Whether so many renderings do not fit the time, by the mean of the calls before."""
        now = perf_counter()
        each = (now - self.began) / self.calls if self.calls else 0.0
        return now + each * self.calls_each * renderings > self.end


def _subject(target: Any, call: dict[str, Any]) -> Subject:
    as_subject(target, None)
    return Subject(target, type(target).__name__, call)


def _check(prompts: Sequence[str], numbers: dict[str, float]) -> None:
    if isinstance(prompts, str) or len(prompts) < FEWEST_PROMPTS:
        count = "one text" if isinstance(prompts, str) else str(len(prompts))
        raise DcacheError(
            f"refine needs a list of {FEWEST_PROMPTS} or more prompts, got {count}: a plan that is fitted on "
            "fewer loses on others. Give more prompts, or use the plan as it is"
        )
    check_limit("seed", numbers["seed"])
    check_whole("batch_size", numbers["batch_size"], 1)
    if not check_number("minutes", numbers["minutes"], 0.0) > 0.0:
        raise DcacheError("minutes must be above 0, got 0")


def _denoiser(subject: Subject) -> nn.Module:
    modules = subject.denoisers
    if len(modules) != 1:
        raise DcacheError(
            f"refine is for pipelines with one denoiser, and {type(subject.pipe).__name__} has "
            f"{len(modules)}: enable(pipe, speedup=...) plans for each of them"
        )
    return modules[0]


def _observed(subject: Subject, module: nn.Module, aim: Aim, prompt: str, seed: int) -> tuple[Kind, Learned]:
    """The kind of these calls, and what was observed of it, by a call made now if nothing was.

    Raises:
        DcacheError: such a call cannot be planned.
    """
    method: Method = dcache.methods.tuned(aim.speedup, aim.quality)
    with dcache.enabled(subject.pipe, method):
        subject([prompt], [seed])
        plan = dcache.stats(subject.pipe).plan
    known = learned_of(module)
    if known is None:
        raise DcacheError(f"there is no plan to refine: {plan}")
    return known


@contextmanager
def _results(kind: Kind, job: _Job) -> Iterator[Results]:
    """Results that outlive a kill, in the cache folder; where there is none, in memory."""
    about = {
        "prompts": digest(job.prompts),
        "aim": list(job.aim),
        "seed": job.seed,
        "batch_size": job.batch_size,
        "components": job.subject.digest,
    }
    path = folder.refining(kind, json.dumps(about))
    in_memory = Results(Journal(None, about))
    with nullcontext(in_memory) if path is None else resumable(path, about) as results:
        yield results


def _as_refined(found: Found, prompts: int) -> Refined:
    ((_, plan),) = found.schedule.components.items()
    row = next(iter(next(iter(plan.rows.values())).values()))
    computed = tuple(t for t, computes in enumerate(row) if computes)
    return Refined(computed, plan.predictor, plan.parameters, plan.clock, prompts, found.fitted)


def _warn(text: str) -> None:
    warnings.warn(text, DcacheWarning, stacklevel=4)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what methods that are tried say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DcacheWarning)
        yield
