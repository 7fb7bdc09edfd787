"""Full runs of one denoiser, observed into a `Profile`.

Sites that overlap cannot be bound at once, so there may be several passes over the same prompts and seeds;
each begins with a run that only looks how much there is to hold.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from dcache.errors import DcacheError
from dcache.eval.machine import machine, versions
from dcache.eval.processes import ProcessGroup, join
from dcache.eval.subject import Subject
from dcache.identity.denoisers import config_digest, denoisers
from dcache.profile import Latencies, Profile
from dcache.search.observation_runs import Batch, ObservationRuns, Tell, device_of
from dcache.search.passes import passes_of, sites_of
from dcache.search.timing import latencies
from dcache.sites.discovery import discover
from dcache.sites.site import Site

CAP = 2 << 30


def observe(  # noqa: PLR0913
    subject: Subject,
    prompts: Sequence[str],
    *,
    sites: Iterable[str] | None = None,
    seed: int = 0,
    batch_size: int = 1,
    cap: int = CAP,
    component: str | None = None,
    timing: bool = True,
    repeats: int = 3,
    tell: Tell = lambda _what: None,
) -> Profile:
    """Run a pipeline without predictions, and keep tables of what its sites give.

    Args:
        subject: the pipeline and how it is called.
        prompts: one picture each.
        sites: specifications as in `dcache.sites`; None is `auto`, the model, and every block and sublayer.
        seed: picture i has seed + i.
        batch_size: pictures in a call.
        cap: bytes of host memory for the features of a run; beyond it they are sketched, with a warning.
        component: which denoiser, where the pipeline has several.
        timing: measure seconds too.
        repeats: timed calls of each.
        tell: called with what is under way.

    Raises:
        DcacheError: no prompts, a site that does not exist or cannot be observed, a broken run, or a cap that
            is too small for even a sketch.
    """
    if not prompts:
        raise DcacheError("no prompts: give at least one to observe")
    if batch_size < 1 or cap < 1:
        raise DcacheError(f"batch_size and cap must be at least 1, got {batch_size} and {cap}")
    began = time.perf_counter()
    name, module = denoiser_of(subject, component)
    team = join(str(device_of(module)))
    wanted = sites_of(discover(module), sites)
    batches = batches_of(prompts, seed, batch_size, team)
    profile = _observed(ObservationRuns(subject, module, batches, cap, tell), wanted, sites is None, team)
    order = [site.name for site in wanted if site.name in profile.sites]

    def seconds() -> Latencies | None:
        # In one process alone: the others would slow it down.
        if not (timing and team.first):
            return None
        return latencies(subject, name, order, profile.steps, batches[0], repeats, tell)

    asked = {"seed": seed, "batch_size": batch_size, "cap": cap, "processes": team.world_size}
    return replace(
        profile,
        sites={site: profile.sites[site] for site in order},
        latencies=team.gather(team.all(seconds))[0],
        component=name,
        model=type(module).__name__,
        config=config_digest(module),
        guidance=subject.guidance,
        made=_made(subject, asked, time.perf_counter() - began) | dict(profile.made),
    )


def _observed(observer: ObservationRuns, sites: Sequence[Site], lenient: bool, team: ProcessGroup) -> Profile:
    """The mean of what every process observed on its batches."""
    first, *others = team.gather(team.all(lambda: observer.profile(passes_of(sites), lenient)))
    return first.merged(others)


def _made(subject: Subject, asked: dict[str, int], seconds: float) -> dict[str, Any]:
    """How the profile was made: what was observed and asked for, where, and how long it took."""
    return {
        "pipeline": subject.name,
        "sampling_steps": subject.steps,
        **asked,
        "machine": machine(),
        "versions": versions(),
        "seconds": round(seconds, 1),
    }


def denoiser_of(subject: Subject, component: str | None = None) -> tuple[str, nn.Module]:
    """Name and module of the denoiser to observe.

    Raises:
        DcacheError: there are several and none was named, or none of that name.
    """
    found = denoisers(subject.pipe)
    name = next(iter(found)) if component is None and len(found) == 1 else component
    if name is None or name not in found:
        have = ", ".join(map(repr, found)) or "none that its modules' arguments tell"
        raise DcacheError(
            f"component must be one denoiser of {type(subject.pipe).__name__}, which has {have}; got {name!r}"
        )
    return name, found[name]


def batches_of(prompts: Sequence[str], seed: int, size: int, team: ProcessGroup) -> list[Batch]:
    """Prompts and seeds of every call of this process.

    Raises:
        DcacheError: there is none for some process.
    """
    every = [
        (list(prompts[i : i + size]), [seed + j for j in range(i, min(i + size, len(prompts)))])
        for i in range(0, len(prompts), size)
    ]
    if len(every) < team.world_size:
        raise DcacheError(
            f"{len(prompts)} prompts in calls of {size} leave nothing to do for some of {team.world_size} "
            "processes: give more prompts, or start fewer processes"
        )
    return every[team.rank :: team.world_size]
