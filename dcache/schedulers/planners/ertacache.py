"""ERTACache (Peng et al. 2025): a profiled set of reused evaluations, and a shorter way on each of them."""

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
# A step of no length would be one timestep twice.
LEAST = 0.1


def plan(profile: Profile, threshold: float = 0.1, timesteps: bool = True) -> Schedule:
    """The model's residual r = v - x is carried on while mean|r_a - r_t| / mean|r_t| < threshold.

    Where it is carried on the sampler's step is multiplied by phi = 1 - mean|v~_t - v_t| / mean|v_t|, not
    below 0.1, and the rest of the way is shared out among the steps that follow. v~ - v is r_a - r_t, since x
    is fresh. Corrections are fitted afterwards: `dcache.search.corrections.fit_corrections`.

    Args:
        profile: with the model's value and delta, and with noise levels.
        threshold: errors that are not below it compute.
        timesteps: adjust the noise levels.

    Raises:
        DcacheError: the profile lacks something, or a parameter makes no sense.
    """
    check_number("threshold", threshold, 0.0)
    residual = profile.tables(SITE, "delta")
    computed = threshold_scan(residual.relative, threshold)
    planned = scheduled(profile, "ertacache", {SITE: computed}, codec="delta")
    if not timesteps or len(computed) == profile.steps:
        return planned
    if not profile.sigmas:
        raise DcacheError(
            f"ertacache adjusts the steps between noise levels, and {profile.sampler or 'the sampler'} told "
            "none: plan with timesteps=False"
        )
    sigmas = adjusted(profile.sigmas, factors(profile, computed))
    return replace(planned, sigmas=sigmas if sigmas != profile.sigmas else ())


def factors(profile: Profile, computed: Anchors) -> list[float]:
    """The paper's phi of every step of the sampler: 1 where the model is computed."""
    error, output = profile.tables(SITE, "delta").distance, profile.tables(SITE, "value").size
    found = [1.0] * profile.steps
    for t in set(range(profile.steps)) - set(computed):
        anchor = max(a for a in computed if a < t)
        share = error[anchor, t] / max(output[t], np.finfo(np.float64).tiny)
        found[t] = float(np.clip(1.0 - share, LEAST, 1.0))
    return found


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Thresholds, from the strictest."""
    yield from ({"threshold": float(a)} for a in np.geomspace(0.005, 20.0, 80))
