"""CacheQuant (Liu et al. 2025): an optimal partition of the run into groups of bounded length."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.schedulers.planners.algorithms import optimal_partition
from dcache.schedulers.planners.registry import scheduled
from dcache.util.checks import check_whole


def plan(profile: Profile, interval: int = 5, computes: int | None = None) -> Schedule:
    """The largest site (trunk, a UNet's outermost bracket or model) is computed where a group begins.

    With T evaluations and interval N there are K = ceil(T / N) groups of ceil(N / 2) to 2 N evaluations. They
    have the least sum over all evaluations of the L1 distance to the first evaluation of the group.
    Corrections are fitted to the plan afterwards: `dcache.search.corrections.fit_corrections`.

    Args:
        profile: with the trunk, a bracket or the model.
        interval: mean length of a group.
        computes: number of groups, in place of T / interval.

    Raises:
        DcacheError: the profile has none of these sites, or a parameter is not valid.
    """
    T, site = profile.steps, profile.whole_site
    check_whole("interval", interval, 1)
    check_whole("computes", T if computes is None else computes, 1)
    K = -(-T // interval) if computes is None else min(computes, T)
    N = interval if computes is None else max(1, round(T / K))
    # The published bounds, widened if no partition into K groups would fit them.
    shortest, longest = min(-(-N // 2), T // K), max(2 * N, -(-T // K))
    anchors = optimal_partition(profile.tables(site, "value").distance, K, shortest, longest)
    return scheduled(profile, "cachequant", {site: anchors}, codec="value")


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Numbers of groups, descending to 1."""
    yield from ({"computes": k} for k in range(profile.steps, 0, -1))
