"""A schedule for a policy, planned from its uncached chunks under real observations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError
from dcache.policy.chunks import chunk_method
from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.schedulers.planners.registry import for_speedup
from dcache.search.observe import observe
from dcache.search.runs import load_observations


def observe_policy(
    policy: Any,
    observations: str | Path | Sequence[Any],
    *,
    denoiser: Any = None,
    sites: Iterable[str] | None = None,
    runs: int | None = None,
    timing: bool = True,
    repeats: int = 3,
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

    Raises:
        DcacheError: there are too few observations, or what `observe` raises.
    """
    seen = load_observations(observations) if isinstance(observations, str | Path) else observations
    count = len(seen) if runs is None else runs
    if not 1 <= count <= len(seen):
        raise DcacheError(f"expected 1 to {len(seen)} runs, one for each observation, got {count}")
    make: Callable[[Any], Any] = chunk_method(policy)
    module = getattr(policy, "denoiser", policy) if denoiser is None else denoiser
    return observe(module, count, run=lambda i: make(seen[i]), sites=sites, timing=timing, repeats=repeats)


def calibrate(
    policy: Any,
    observations: str | Path | Sequence[Any],
    speedup: float,
    *,
    planner: str = "knapsack",
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
        planner: name of a planner.
        denoiser: the module that is cached.
        sites: specifications.
        runs: chunks.
        **options: further parameters of the planner.

    Raises:
        DcacheError: the planner cannot reach the speedup, or what `observe_policy` raises.
    """
    profile = observe_policy(policy, observations, denoiser=denoiser, sites=sites, runs=runs)
    return for_speedup(profile, planner, speedup, **options)
