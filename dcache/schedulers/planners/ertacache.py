"""ERTACache (Peng et al. 2025): reuse at profiled evaluations, with shorter sampler steps there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from dcache.errors import DcacheError
from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.schedule.noise_levels import adjusted
from dcache.schedulers.planners.algorithms import Anchors, threshold_scan
from dcache.schedulers.planners.registry import scheduled
from dcache.util.checks import check_number

SITE = "model"
# Smallest factor of a step. A factor of 0 would repeat a timestep.
LEAST = 0.1


def plan(profile: Profile, threshold: float = 0.1, timesteps: bool = True) -> Schedule:
    """The model's residual r = v - x of step a is reused at t while mean|r_a - r_t| / mean|r_t| < threshold.

    Where it is reused, the sampler's step is multiplied by phi = 1 - mean|v'_t - v_t| / mean|v_t|, at least
    0.1, and the steps that follow cover the rest. Since x is fresh, the prediction's error v' - v is r_a -
    r_t. Corrections are fitted afterwards: `dcache.search.corrections.fit_corrections`.

    Args:
        profile: with the model's value and delta, and with noise levels.
        threshold: errors that are not below it compute.
        timesteps: adjust the noise levels.

    Raises:
        DcacheError: the profile lacks a table or noise levels, or a parameter is not valid.
    """
    check_number("threshold", threshold, 0.0)
    residual = profile.tables(SITE, "delta")
    computed = threshold_scan(residual.relative, threshold)
    schedule = scheduled(profile, "ertacache", {SITE: computed}, codec="delta")
    if not timesteps or len(computed) == profile.steps:
        return schedule
    if not profile.sigmas:
        raise DcacheError(
            "ertacache adjusts the steps between noise levels, and those of "
            f"{profile.sampler or 'the sampler'} are unknown: plan with timesteps=False"
        )
    sigmas = adjusted(profile.sigmas, factors(profile, computed))
    return replace(schedule, sigmas=sigmas if sigmas != profile.sigmas else ())


def factors(profile: Profile, computed: Anchors) -> list[float]:
    """The paper's phi of every step of the sampler; 1 where the model is computed."""
    error, output = profile.tables(SITE, "delta").distance, profile.tables(SITE, "value").size
    phi = [1.0] * profile.steps
    for t in set(range(profile.steps)) - set(computed):
        anchor = max(a for a in computed if a < t)
        share = error[anchor, t] / max(output[t], np.finfo(np.float64).tiny)
        phi[t] = float(np.clip(1.0 - share, LEAST, 1.0))
    return phi


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Thresholds, ascending."""
    yield from ({"threshold": float(a)} for a in np.geomspace(0.005, 20.0, 80))
