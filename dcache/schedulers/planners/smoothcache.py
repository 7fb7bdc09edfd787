"""SmoothCache (Liu et al. 2024): a kind of sublayer is reused while its error stays below a threshold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dcache.errors import DcacheError
from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.schedulers.planners.algorithms import threshold_scan
from dcache.schedulers.planners.registry import scheduled

KINDS = ("attn", "cross_attn", "mlp")


def plan(profile: Profile, alpha: float = 0.15, lookahead: int = 3) -> Schedule:
    """One row for every kind of sublayer, from the mean over its sites of mean|y_a - y_t| / mean|y_t|.

    The first and the last evaluation are computed, as published.

    Args:
        profile: with the sites of one or more kinds of sublayer.
        alpha: errors that are not below it compute.
        lookahead: most predictions in a row.

    Raises:
        DcacheError: the profile has no sublayers.
    """
    rows: dict[str, tuple[int, ...]] = {}
    for kind in KINDS:
        sites = profile.of_kind(kind)
        if sites:
            error = np.mean([profile.tables(site, "value").relative for site in sites], axis=0)
            rows |= dict.fromkeys(sites, threshold_scan(error, alpha, lookahead, last=True))
    if not rows:
        raise DcacheError(
            f"smoothcache plans for {', '.join(KINDS)}: the profile has {', '.join(profile.sites)}"
        )
    return scheduled(profile, "smoothcache", rows, codec="value")


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Thresholds, ascending from 0, which computes everything; then longer runs."""
    yield {"alpha": 0.0}
    yield from ({"alpha": float(a)} for a in np.geomspace(0.005, 5.0, 60))
    yield from ({"alpha": 5.0, "lookahead": k} for k in range(4, profile.steps))
