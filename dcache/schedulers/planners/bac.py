"""BAC (Ji et al. 2025): every sublayer is updated where that keeps it most similar to what it would be."""

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
# All of them are distances, [a, t] of evaluation t from the anchor a: whatever the name, they are minimised.
METRICS: dict[str, Callable[[FeatureTables], Floats]] = {
    "cosine": lambda tables: 1.0 - tables.cosine,
    "l1": lambda tables: tables.distance,
    "l2": lambda tables: np.sqrt(tables.squared),
}
FORMS = ("anchor", "adjacent")


def plan(
    profile: Profile, computes: int = 10, metric: str = "cosine", union: int = 0, form: str = "anchor"
) -> Schedule:
    """A row for every sublayer, each on its own: the optimal partition, then the Bubbling Union.

    Args:
        profile: with sublayers.
        computes: updates of each sublayer ("num_caches"; 5, 8, 10 and 20 of 100 evaluations are published).
        metric: "cosine", "l1" or "l2".
        union: of how many feed-forward sublayers, those whose output moves most, the updates are united; 0
            for none. It adds computes.
        form: "anchor" sums each evaluation's distance to the update it stands on (the published code),
            "adjacent" its distance to the evaluation before (the paper's printed formula).

    Raises:
        DcacheError: the profile has no sublayers, or a parameter makes no sense.
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
    """From computing every evaluation down to the first alone."""
    return ({"computes": k} for k in range(profile.steps, 0, -1))


def _united(profile: Profile, rows: dict[str, tuple[int, ...]], top: int) -> dict[str, tuple[int, ...]]:
    """The feed-forward sublayers' rows after the Bubbling Union, by their mean |y_t - y_u| over all pairs."""
    sites = profile.of_kind("mlp")
    table = [[t in rows[site] for t in range(profile.steps)] for site in sites]
    depths = [span_of(site).first[0] for site in sites]
    moves = [float(profile.tables(site, "value").distance.mean()) for site in sites]
    united = bubbling_union(table, depths, moves, top) if top else []
    return {site: tuple(np.flatnonzero(row)) for site, row in zip(sites, united, strict=bool(top))}
