"""Observation of uncached runs of one denoiser; makes a `Profile`.

Sites that overlap cannot be bound at the same time, so there may be several passes over the same prompts and
seeds. Each pass begins with a run that only measures the size of the features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from dcache.errors import DcacheError
from dcache.eval.machine import machine, versions
from dcache.eval.processes import ProcessGroup, join
from dcache.eval.progress import StageProgress
from dcache.eval.subject import Subject
from dcache.identity.denoisers import config_digest, denoiser_named
from dcache.profile import Latencies, Profile
from dcache.search.observing.observation_runs import Batch, ObservationRuns, device_of
from dcache.search.observing.passes import passes_of, sites_of
from dcache.search.observing.timing import latencies
from dcache.search.rendering.results import Results
from dcache.search.rendering.runs import as_prompts, as_subject
from dcache.sites.discovery import discover
from dcache.sites.site import Site

# Default memory for the features of a run, in bytes.
CAP = 2 << 30


def observe(  # noqa: PLR0913
    subject: Subject | nn.Module,
    prompts: Sequence[str] | int,
    *,
    run: Callable[[int], Any] | None = None,
    sites: Iterable[str] | None = None,
    seed: int = 0,
    batch_size: int = 1,
    cap: int = CAP,
    component: str | None = None,
    timing: bool = True,
    repeats: int = 3,
    results: Results | None = None,
    progress: StageProgress = lambda _stage: None,
) -> Profile:
    """Run a pipeline, or a loop of one's own, without predictions: a profile of its sites' outputs.

    Args:
        subject: the pipeline and its call settings; with `run`, the policy or denoiser.
        prompts: one picture each; with `run`, the number of runs.
        run: makes run number i of a loop of one's own; None calls the pipeline.
        sites: specifications as in `dcache.sites`; None is `auto`, the model, and every block and sublayer.
        seed: picture i has seed + i.
        batch_size: pictures in a call.
        cap: bytes of host memory for the features of a run; larger ones are sketched, with a warning.
        component: name of the denoiser, if the pipeline has several.
        timing: measure seconds too.
        repeats: timed calls of each.
        results: the runs of the same observation that were made before a kill; None keeps nothing.
        progress: called with a description of each stage.

    Raises:
        DcacheError: no prompts, a site that cannot be observed, NaN in a run, or too small a cap.
    """
    tested, prompts = as_subject(subject, run), as_prompts(prompts)
    _refuse_nothing(prompts, batch_size, cap)
    began, (name, module) = time.perf_counter(), denoiser_of(tested, component)
    group = join(str(device_of(module)))
    wanted, batches = sites_of(discover(module), sites), batches_of(prompts, seed, batch_size, group)
    runs = ObservationRuns(tested, module, batches, cap, progress, results or Results())
    profile = _observed(runs, wanted, sites is None, group)
    order = [site.name for site in wanted if site.name in profile.sites]

    def seconds() -> Latencies | None:
        # In one process only: others that time at once would slow it down.
        if not (timing and group.first):
            return None
        return latencies(tested, name, order, profile.steps, batches[0], repeats, progress)

    settings = {"seed": seed, "batch_size": batch_size, "cap": cap, "processes": group.world_size}
    return replace(
        profile,
        sites={site: profile.sites[site] for site in order},
        latencies=group.gather(group.all(seconds))[0],
        component=name,
        model=type(module).__name__,
        config=config_digest(module),
        guidance=tested.guidance,
        made=_provenance(tested, settings, time.perf_counter() - began) | dict(profile.made),
    )


def _refuse_nothing(prompts: Sequence[str], batch_size: int, cap: int) -> None:
    if not prompts:
        raise DcacheError("expected at least one prompt to observe, got none")
    if batch_size < 1 or cap < 1:
        raise DcacheError(f"batch_size and cap must be at least 1, got {batch_size} and {cap}")


def _observed(runs: ObservationRuns, sites: Sequence[Site], lenient: bool, group: ProcessGroup) -> Profile:
    """Observe this process's batches; returns the mean profile over all processes."""
    first, *others = group.gather(group.all(lambda: runs.profile(passes_of(sites), lenient)))
    return first.merged(others)


def _provenance(subject: Subject, settings: dict[str, int], seconds: float) -> dict[str, Any]:
    """The profile's `made`: pipeline, settings, machine, versions and duration of the observation."""
    return {
        "pipeline": subject.name,
        "sampling_steps": subject.steps,
        **settings,
        "machine": machine(),
        "versions": versions(),
        "seconds": round(seconds, 1),
    }


def denoiser_of(subject: Subject, component: str | None = None) -> tuple[str, nn.Module]:
    """Name and module of the denoiser to observe.

    Raises:
        DcacheError: there are several and none was named, or there is none of that name.
    """
    return denoiser_named(subject.pipe, component)


def batches_of(prompts: Sequence[str], seed: int, size: int, group: ProcessGroup) -> list[Batch]:
    """Prompts and seeds of every call of this process.

    Raises:
        DcacheError: there are fewer batches than processes.
    """
    every = [
        (list(prompts[i : i + size]), [seed + j for j in range(i, min(i + size, len(prompts)))])
        for i in range(0, len(prompts), size)
    ]
    if len(every) < group.world_size:
        raise DcacheError(
            f"{len(prompts)} prompts in calls of {size} leave nothing to do for some of {group.world_size} "
            "processes: give more prompts, or start fewer processes"
        )
    return every[group.rank :: group.world_size]
