"""BAC (Ji et al. 2025): every sublayer is computed where reuse would be least similar to its output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dcache.errors import DcacheError
from dcache.profile import FeatureTables, Floats, Profile
from dcache.schedule import Schedule
from dcache.schedulers.planners.algorithms import bubbling_union, least_similar, optimal_partition
from dcache.schedulers.planners.registry import scheduled
from dcache.sites.names import span_of
from dcache.util.checks import check_whole

KINDS = ("attn", "cross_attn", "mlp", "fused")
# Each is a distance, [a, t] of evaluation t from the anchor a, also that named by a similarity.
METRICS: dict[str, Callable[[FeatureTables], Floats]] = {
    "cosine": lambda tables: 1.0 - tables.cosine,
    "l1": lambda tables: tables.distance,
    "l2": lambda tables: np.sqrt(tables.squared),
}
FORMS = ("anchor", "adjacent")


def plan(
    profile: Profile, computes: int = 10, metric: str = "cosine", union: int = 0, form: str = "anchor"
) -> Schedule:
    """A row for every sublayer: the optimal partition, then the Bubbling Union.

    Args:
        profile: with sublayers.
        computes: computes of each sublayer ("num_caches"; 5, 8, 10 and 20 of 100 evaluations are published).
        metric: "cosine", "l1" or "l2".
        union: number of feed-forward sublayers whose computes are united, those whose output changes most; 0
            for none. It adds computes.
        form: "anchor" sums each evaluation's distance to the compute that it reuses (the published code),
            "adjacent" its distance to the previous evaluation (the paper's printed formula).

    Raises:
        DcacheError: the profile has no sublayers, or a parameter is not valid.
    """
    check_whole("union", union, 0)
    check_whole("computes", computes, 1)
    for name, value, known in (("metric", metric, tuple(METRICS)), ("form", form, FORMS)):
        if value not in known:
            raise DcacheError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    sites = profile.of_kind(*KINDS)
    if not sites:
        raise DcacheError(
            f"bac plans for sublayers ({', '.join(KINDS)}): the profile has {', '.join(profile.sites)}"
        )
    rows = {}
    for site in sites:
        distance = METRICS[metric](profile.tables(site, "value"))
        if form == "anchor":
            rows[site] = optimal_partition(distance, computes)
        else:
            rows[site] = least_similar([0.0, *-np.diag(distance, 1)], computes)
    return scheduled(profile, "bac", rows | _united(profile, rows, union), codec="value")


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Computes, descending to 1."""
    return ({"computes": k} for k in range(profile.steps, 0, -1))


def _united(profile: Profile, rows: dict[str, tuple[int, ...]], top: int) -> dict[str, tuple[int, ...]]:
    """The feed-forward sublayers' rows after the Bubbling Union, by their mean |y_t - y_u| over all t, u."""
    sites = profile.of_kind("mlp")
    table = [[t in rows[site] for t in range(profile.steps)] for site in sites]
    depths = [span_of(site).first[0] for site in sites]
    changes = [float(profile.tables(site, "value").distance.mean()) for site in sites]
    united = bubbling_union(table, depths, changes, top) if top else []
    return {site: tuple(np.flatnonzero(row)) for site, row in zip(sites, united, strict=bool(top))}
