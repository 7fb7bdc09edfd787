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
    """All blocks at once (a UNet's outermost bracket) are computed where the groups begin.

    With N the interval and T evaluations there are K = ceil(T / N) groups of ceil(N / 2) to 2 N evaluations,
    at the least sum over all evaluations of the L1 distance from what their group began with. Corrections
    are fitted afterwards, to the plan: `dcache.search.corrections.fit_corrections`.

    Args:
        profile: with the trunk, a bracket or the model.
        interval: mean length of a group.
        computes: number of groups, in place of T / interval.

    Raises:
        DcacheError: the profile has none of these sites, or a parameter makes no sense.
    """
    T, site = profile.steps, profile.whole_site
    check_whole("interval", interval, 1)
    check_whole("computes", T if computes is None else computes, 1)
    K = -(-T // interval) if computes is None else min(computes, T)
    N = interval if computes is None else max(1, round(T / K))
    # Published bounds; near the ends of what is possible they are widened until there is a partition.
    shortest, longest = min(-(-N // 2), T // K), max(2 * N, -(-T // K))
    anchors = optimal_partition(profile.tables(site, "value").distance, K, shortest, longest)
    return scheduled(profile, "cachequant", {site: anchors}, codec="value")


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Fewer and fewer groups."""
    yield from ({"computes": k} for k in range(profile.steps, 0, -1))
