"""Ours: every site has its own computed evaluations, and their numbers are chosen by cost and error.

Each site's best plans for every number of computes come from the dynamic program of `pairs`. `knapsack` then
chooses a number for each site, so that all together reach a speedup by measured seconds. The errors of
different sites are assumed to add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dcache.errors import DcacheError
from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.schedulers.planners.algorithms import knapsack, pair_partition
from dcache.schedulers.planners.gram import RIDGE
from dcache.schedulers.planners.pairs import errors, plan_terms, step_weights
from dcache.schedulers.planners.registry import scheduled
from dcache.util.checks import check_number

SUBLAYERS = ("attn", "cross_attn", "mlp", "fused")


def plan(
    profile: Profile,
    speedup: float = 1.5,
    predictor: str = "fitted",
    importance: str = "power",
    kinds: tuple[str, ...] | None = None,
    ridge: float = RIDGE,
) -> Schedule:
    """Rows of many sites side by side, with the least sum of weighted errors for a speedup.

    Args:
        profile: with latencies of the sites.
        speedup: of the whole call, by the latencies.
        predictor: as in `pairs`.
        importance: as in `pairs`.
        kinds: kinds of the sites; None for sublayers, or blocks if the profile has no sublayers.
        ridge: as in `pairs`.

    Raises:
        DcacheError: a site was not timed, there are no such sites, or even one compute of each is too slow.
    """
    check_number("speedup", speedup, 1.0)
    sites = _sites(profile, kinds)
    costs, rest, uncached = _costs(profile, sites)
    budget = uncached / speedup - rest
    if sum(costs) > budget:
        raise DcacheError(
            f"{len(sites)} sites reach a speedup of {_largest_speedup(profile, sites):.2f} with one compute "
            f"of each, and {speedup:g} was asked for: ask for less, or plan for the trunk (pairs), whose "
            "predictions cost less"
        )
    plans = [
        pair_partition(
            errors(profile, site, predictor, ridge) * step_weights(profile, site, importance), profile.steps
        )
        for site in sites
    ]
    counts = knapsack([pair_plans.errors for pair_plans in plans], costs, budget)
    rows = {site: pair_plans.anchors(k) for site, pair_plans, k in zip(sites, plans, counts, strict=True)}
    return scheduled(profile, "knapsack", rows, **plan_terms(profile, rows, predictor, ridge=ridge))


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Speedups, up to that with one compute of each site."""
    largest = _largest_speedup(profile, _sites(profile, None))
    yield from ({"speedup": round(float(s), 2)} for s in np.arange(1.05, largest, 0.05))


def _costs(profile: Profile, sites: Sequence[str]) -> tuple[list[float], float, float]:
    """Seconds by which a compute of each site exceeds its prediction; of a call that predicts all; uncached.

    The second includes the overhead of caching the sites, which an uncached call does not have.
    """
    timed = profile.latencies
    missing = [site for site in sites if timed is None or site not in timed.computed]
    if timed is None or missing:
        raise DcacheError(
            f"a budget of time needs measured latencies, and the profile has none of {', '.join(missing[:4])}"
            ": observe with timing"
        )
    costs = [max(timed.computed[site] - timed.predicted.get(site, 0.0), 0.0) for site in sites]
    overhead = sum(timed.overhead.get(site, 0.0) for site in sites)
    return costs, timed.uncached + overhead - profile.steps * sum(costs), timed.uncached


def _largest_speedup(profile: Profile, sites: Sequence[str]) -> float:
    """The speedup with one compute of each site."""
    costs, rest, uncached = _costs(profile, sites)
    return uncached / max(rest + sum(costs), 1e-12)


def _sites(profile: Profile, kinds: tuple[str, ...] | None) -> tuple[str, ...]:
    """The planned sites of a profile.

    Raises:
        DcacheError: the profile has none.
    """
    if kinds is not None:
        sites = profile.of_kind(*kinds)
    else:
        sites = profile.of_kind(*SUBLAYERS) or profile.of_kind("block")
    if not sites:
        raise DcacheError(
            f"knapsack plans for {', '.join(kinds or (*SUBLAYERS, 'block'))}: the profile has "
            f"{', '.join(profile.sites)}"
        )
    return sites
