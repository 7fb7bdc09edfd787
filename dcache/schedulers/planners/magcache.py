"""MagCache (Ma et al. 2025): its rule reads no tensors, so its run is known in advance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dcache.errors import DcacheError
from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.schedulers import Last, MagCacheRule, MaxRun, Retention, any_of
from dcache.schedulers.planners.registry import scheduled
from dcache.schedulers.simulate import simulate
from dcache.sites.site import Site


def plan(
    profile: Profile, threshold: float = 0.24, max_run: int = 5, retention: float = 0.1, last: bool = False
) -> Schedule:
    """The trunk is computed where `methods.magcache` with the profile's ratios would compute it.

    Args:
        profile: with ratios.
        threshold: largest error that is predicted.
        max_run: most predictions in a row.
        retention: share of the run computed from the start, at least one evaluation.
        last: compute the last evaluation.

    Raises:
        DcacheError: the profile has no ratios, or a parameter is not valid.
    """
    if profile.ratios is None:
        raise DcacheError(
            "magcache plans from the ratios of the trunk's magnitudes, and this profile has none: they are "
            f"observed if the model has a trunk; this profile has {', '.join(profile.sites)}"
        )
    magnitude = MagCacheRule(threshold, tuple(map(float, profile.ratios)))
    rule = any_of(Retention(retention), Last() if last else None, MaxRun(max_run), magnitude)
    computed = simulate(rule, profile.steps, Site("trunk", "trunk"))
    return scheduled(profile, "magcache", {"trunk": computed}, codec="delta")


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Thresholds, ascending; then longer runs; last without retention."""
    yield {"retention": 1.0}
    yield from ({"threshold": float(t)} for t in np.geomspace(0.002, 20.0, 120))
    yield from ({"threshold": 1e9, "max_run": k} for k in range(6, profile.steps))
    yield {"threshold": 1e9, "max_run": profile.steps, "retention": 0.0}
