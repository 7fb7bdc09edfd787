"""From a router to a schedule: the weights of its loss, its share for a speedup, and its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dcache.eval.progress import StageProgress
from dcache.eval.subject import Subject
from dcache.identity.denoisers import config_digest
from dcache.schedule import Plan, Schedule
from dcache.search.check import Checked, check
from dcache.search.fitting.latency_model import Timer, fit_latency, observe
from dcache.search.observe import denoiser_of
from dcache.search.rendering.render import Renderer
from dcache.search.rendering.results import Results
from dcache.search.routing.call_flops import CallFlops, call_flops
from dcache.search.routing.router import Router, sublayers_of, train

# Pictures on which the weights of the loss are measured.
FEW = 2


def calibrate_router(
    subject: Subject,
    prompts: Sequence[str],
    speedup: float,
    *,
    iterations: int = 30,
    seed: int = 0,
    repeats: int = 3,
    results: Results | None = None,
    progress: StageProgress = lambda _stage: None,
) -> Checked:
    """Train a router for a speedup on two thirds of the prompts, and check its schedule on the others.

    Args:
        subject: the pipeline with its settings.
        prompts: two or more.
        speedup: wanted speedup of the whole call, by its FLOPs.
        iterations: runs to train on.
        seed: seed of the first picture.
        repeats: timed calls of each.
        results: what an earlier run of the same command made; None keeps nothing.
        progress: called with a description of each stage.

    Raises:
        DcacheError: a number is out of range, the speedup cannot be reached, or the denoiser has no
            sublayers.
    """
    results, cut = results or Results(), max(1, len(prompts) // 3)
    seen, begin = prompts[cut:], seed + cut
    progress("FLOPs")
    flops = flops_of(subject, seen[0], begin)
    share = flops.share(speedup)
    progress(f"weights of the loss, for {share:.0%} of the sublayers' FLOPs")
    renderer = Renderer(subject, seen[:FEW], begin, results=results, part="importance")
    weights = image_weights(renderer, flops.steps)
    router = train(
        subject,
        seen,
        share,
        iterations=iterations,
        seed=begin,
        importance=weights,
        costs=flops.sites,
        results=results,
        progress=progress,
    )
    progress("checking on the pipeline")
    checked = check(subject, scheduled(subject, router, share), prompts[:cut], seed=seed, repeats=repeats)
    return replace(checked, flops=router.part(router.computed(share)))


def whole_start(
    subject: Subject,
    prompts: Sequence[str],
    speedup: float,
    *,
    iterations: int,
    seed: int = 0,
    repeats: int = 3,
    results: Results | None = None,
    progress: StageProgress = lambda _stage: None,
) -> Schedule:
    """A start for `dcache.search.calibrate`: whole evaluations that a router learned to compute (ours).

    Arguments are those of `calibrate_router`; prompts and seed those of the calibration: timings are shared.
    """
    results, cut = results or Results(), max(1, len(prompts) // 3)
    target = observe(subject, prompts[0], seed)
    latency = fit_latency(subject, target, prompts[:cut], seed, repeats, Timer(results))
    share = latency.computes(speedup) / target.steps
    router = train(
        subject,
        prompts[cut:],
        share,
        iterations=iterations,
        seed=seed + cut,
        whole=True,
        results=results,
        progress=progress,
    )
    return scheduled(subject, router, share)


def flops_of(subject: Subject, prompt: str, seed: int) -> CallFlops:
    """The FLOPs of one picture's call and of its sublayers; takes four calls."""
    name, module = denoiser_of(subject)
    sites = [s.name for s in sublayers_of(module)]
    return call_flops(subject, name, sites, observe(subject, prompt, seed).steps, prompt, seed)


def scheduled(subject: Subject, router: Router, share: float) -> Schedule:
    """The schedule that computes the sublayers with the largest w, as far as `share` of their costs goes."""
    name, module = denoiser_of(subject)
    table = router.computed(share)
    rows = {site: tuple(map(bool, column)) for site, column in zip(router.sites, table.T, strict=True)}
    plan = Plan({"*": rows}, codec="value", model=type(module).__name__, config=config_digest(module))
    schedule = Schedule(len(table), {name: plan}, method="harmonica")
    return replace(schedule, guidance=subject.guidance)


def image_weights(renderer: Renderer, steps: int) -> list[float]:
    """lambda_t: squared error of the pictures if evaluation t alone reuses all sublayers; their mean is 1.

    The proxy of the published image-error objective, with one mask for all sublayers. Each takes a run.
    """
    name, module = denoiser_of(renderer.subject)
    sites = [s.name for s in sublayers_of(module)]
    errors = [0.0]
    for t in range(1, steps):
        row = tuple(i != t for i in range(steps))
        plan = Plan({"*": dict.fromkeys(sites, row)}, codec="value", model=type(module).__name__)
        pictures = renderer.pictures(Schedule(steps, {name: plan}, method="importance"))
        errors.append(float(np.square(pictures - renderer.reference).mean()))
    mean = float(np.mean(errors[1:])) or 1.0
    return [0.0, *(error / mean for error in errors[1:])]
