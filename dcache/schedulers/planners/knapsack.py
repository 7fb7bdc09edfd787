"""Ours: every site has its own places, and the computes are dealt out by what they cost and what they help.

Each site's best plans for every number of computes come from the dynamic program of `pairs`; one price on
time, bisected, then decides how often each site computes, so that all together meet a speedup by measured
seconds. The errors of different sites are taken to add up.
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
from dcache.schedulers.planners.pairs import errors, how, step_weights
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
    """Rows of many sites that lie beside each other, at the least sum of weighted errors for a speedup.

    Args:
        profile: with latencies of the sites.
        speedup: of the whole call, by the latencies.
        predictor: as in `pairs`.
        importance: as in `pairs`.
        kinds: of the sites; None for sublayers, or blocks where the profile has none.
        ridge: as in `pairs`.

    Raises:
        DcacheError: nothing was timed, there are no such sites, or even one compute of each is too slow.
    """
    check_number("speedup", speedup, 1.0)
    sites = _sites(profile, kinds)
    costs, rest, uncached = _costs(profile, sites)
    budget = uncached / speedup - rest
    if sum(costs) > budget:
        raise DcacheError(
            f"{len(sites)} sites reach a speedup of {_most(profile, sites):.2f} with one compute of each, "
            f"and {speedup:g} was asked for: ask for less, or plan for the trunk (pairs), whose predictions "
            "cost less"
        )
    plans = [
        pair_partition(
            errors(profile, site, predictor, ridge) * step_weights(profile, site, importance), profile.steps
        )
        for site in sites
    ]
    counts = knapsack([one.errors for one in plans], costs, budget)
    rows = {site: one.anchors(k) for site, one, k in zip(sites, plans, counts, strict=True)}
    return scheduled(profile, "knapsack", rows, **how(profile, rows, predictor, ridge=ridge))


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Speedups up to that with one compute of each site."""
    most = _most(profile, _sites(profile, None))
    yield from ({"speedup": round(float(s), 2)} for s in np.arange(1.05, most, 0.05))


def _costs(profile: Profile, sites: Sequence[str]) -> tuple[list[float], float, float]:
    """Seconds of a compute of each site beyond its prediction; of a call without any; of an uncached one.

    A call in which sites are predicted pays for remembering them, which an uncached one does not.
    """
    timed = profile.latencies
    missing = [site for site in sites if timed is None or site not in timed.computed]
    if timed is None or missing:
        raise DcacheError(
            f"a budget of time needs measured latencies, and the profile has none of {', '.join(missing[:4])}"
            ": observe with timing"
        )
    costs = [max(timed.computed[site] - timed.predicted.get(site, 0.0), 0.0) for site in sites]
    remembering = sum(timed.overhead.get(site, 0.0) for site in sites)
    return costs, timed.uncached + remembering - profile.steps * sum(costs), timed.uncached


def _most(profile: Profile, sites: Sequence[str]) -> float:
    """The speedup with one compute of each site."""
    costs, rest, uncached = _costs(profile, sites)
    return uncached / max(rest + sum(costs), 1e-12)


def _sites(profile: Profile, kinds: tuple[str, ...] | None) -> tuple[str, ...]:
    """The sites to deal out to.

    Raises:
        DcacheError: the profile has none.
    """
    if kinds is not None:
        found = profile.of_kind(*kinds)
    else:
        found = profile.of_kind(*SUBLAYERS) or profile.of_kind("block")
    if not found:
        raise DcacheError(
            f"knapsack deals computes out to {', '.join(kinds or (*SUBLAYERS, 'block'))}: the profile has "
            f"{', '.join(profile.sites)}"
        )
    return found
