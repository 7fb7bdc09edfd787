"""A schedule for a policy, planned from its uncached chunks under real observations, and its check."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import dcache
from dcache.errors import DcacheError
from dcache.eval.progress import StageProgress
from dcache.policy.chunks import chunk_method, denoiser_of
from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.schedulers.planners.knapsack import SUBLAYERS
from dcache.schedulers.planners.registry import for_speedup
from dcache.search.observe import observe
from dcache.search.rendering.results import Results
from dcache.search.rendering.runs import load_observations


def observe_policy(  # noqa: PLR0913
    policy: Any,
    observations: str | Path | Sequence[Any],
    *,
    denoiser: Any = None,
    sites: Iterable[str] | None = None,
    runs: int | None = None,
    timing: bool = True,
    repeats: int = 3,
    results: Results | None = None,
    progress: StageProgress = lambda _stage: None,
) -> Profile:
    """A profile of the sites of a policy's denoiser, from one uncached chunk under each observation.

    Args:
        policy: observation -> chunk, or an object with such a method.
        observations: what the policy takes, one for each chunk; or a file .npz or .safetensors of arrays
            (N, ...) by name, from which each chunk gets a mapping.
        denoiser: the module that is observed; None is `policy` or its attribute `denoiser`.
        sites: as for `dcache.search.observe.observe`.
        runs: chunks; None is one for each observation.
        timing: measure seconds too, which plans for a speedup need.
        repeats: timed chunks of each.
        results: the chunks of the same observation that were made before a kill; None keeps nothing.
        progress: called with a description of each stage.

    Raises:
        DcacheError: there are too few observations, or what `observe` raises.
    """
    seen = observations_in(observations)
    count = len(seen) if runs is None else runs
    if not 1 <= count <= len(seen):
        raise DcacheError(f"expected 1 to {len(seen)} runs, one for each observation, got {count}")
    make: Callable[[Any], Any] = chunk_method(policy)
    return observe(
        denoiser_of(policy, denoiser),
        count,
        run=lambda i: make(seen[i]),
        sites=sites,
        timing=timing,
        repeats=repeats,
        results=results,
        progress=progress,
    )


def calibrate(
    policy: Any,
    observations: str | Path | Sequence[Any],
    speedup: float,
    *,
    planner: str | None = None,
    denoiser: Any = None,
    sites: Iterable[str] | None = None,
    runs: int | None = None,
    **options: Any,
) -> Schedule:
    """The schedule of a planner that is as fast as was asked for, by the seconds of the policy's own chunks.

    Args:
        policy: as for `observe_policy`, and so are `observations`, `denoiser`, `sites` and `runs`.
        observations: real ones, as many and as different as the robot meets.
        speedup: of the whole chunk, above 1.
        planner: name of a planner; None is that of `planner_for`.
        denoiser: the module that is cached.
        sites: specifications.
        runs: chunks.
        **options: further parameters of the planner.

    Raises:
        DcacheError: the planner cannot reach the speedup, or what `observe_policy` raises.
    """
    profile = observe_policy(policy, observations, denoiser=denoiser, sites=sites, runs=runs)
    return for_speedup(profile, planner or planner_for(profile), speedup, **options)


def planner_for(profile: Profile) -> str:
    """The planner where none is named: `knapsack`, or `pairs` without sublayers and blocks (UNets).

    Args:
        profile: what was observed of the policy's denoiser.
    """
    return "knapsack" if profile.of_kind(*SUBLAYERS, "block") else "pairs"


@dataclass(frozen=True)
class ChunkCheck:
    """How a method's chunks compare with uncached ones of the same noise.

    Attributes:
        error: root mean square of the difference, divided by that of the uncached chunks; None where a
            chunk's noise is not drawn from torch's generator, so that two uncached ones differ.
        speedup: median of the ratios of seconds, uncached and cached chunks in turns.
    """

    error: float | None
    speedup: float


def check_chunks(
    policy: Any,
    method: Any,
    observations: Sequence[Any],
    denoiser: Any = None,
    progress: StageProgress = lambda _stage: None,
) -> ChunkCheck:
    """Compare a method's chunks with uncached ones, under observations that it was not planned for.

    Args:
        policy: as for `observe_policy`.
        method: as for `dcache.enable`.
        observations: what the policy takes, one for each chunk.
        denoiser: the module that is cached.
        progress: called with a description of each stage.
    """
    make, module = chunk_method(policy), denoiser_of(policy, denoiser)
    errors, sizes, ratios, repeatable = [], [], [], True
    for i, observation in enumerate(observations):
        progress(f"check, observation {i + 1} of {len(observations)}")
        first, _ = _chunk(make, observation, i)
        plain, uncached = _chunk(make, observation, i)
        repeatable = repeatable and torch.equal(first, plain)
        with dcache.enabled(module, method):
            # The first chunk is checked by the engine, which a control loop pays once.
            _chunk(make, observation, i)
            cached, seconds = _chunk(make, observation, i)
        errors.append(float((cached - plain).square().mean()))
        sizes.append(float(plain.square().mean()))
        ratios.append(uncached / seconds)
    size = statistics.fmean(sizes) or 1.0
    return ChunkCheck(
        (statistics.fmean(errors) / size) ** 0.5 if repeatable else None, statistics.median(ratios)
    )


def observations_in(observations: str | Path | Sequence[Any]) -> Sequence[Any]:
    """Observations as they were given, or those of a file."""
    return load_observations(observations) if isinstance(observations, str | Path) else observations


@torch.no_grad()
def _chunk(make: Callable[[Any], Any], observation: Any, seed: int) -> tuple[torch.Tensor, float]:
    """A chunk, float32 on the CPU, and its seconds."""
    torch.manual_seed(seed)
    began = perf_counter()
    chunk = torch.as_tensor(make(observation)).detach().float().cpu()
    return chunk, perf_counter() - began
