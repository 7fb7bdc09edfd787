"""Planners by name: each a small pure function Profile -> Schedule, one file each.

A planner's own parameters decide how much it computes. `levels` lists settings of them from the most to the
fewest computes; `for_speedup` takes the first that is fast enough by the measured cost.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dcache.errors import DcacheError
from dcache.profile import Profile, cost
from dcache.schedule import Plan, Schedule
from dcache.util.registry import Registry, modules


class Planner(Protocol):
    """A module of this package, or a `Planned` of others."""

    @property
    def plan(self) -> Callable[..., Schedule]:
        """Profile and parameters -> schedule."""
        ...

    @property
    def levels(self) -> Callable[[Profile], Iterable[Mapping[str, Any]]]:
        """Settings of the parameters, from the most to the fewest computes."""
        ...


@dataclass(frozen=True)
class Planned:
    """A planner made of its two functions."""

    plan: Callable[..., Schedule]
    levels: Callable[[Profile], Iterable[Mapping[str, Any]]]


PLANNERS: Registry[Planner] = Registry(
    "planner",
    modules(
        __package__,
        "bac",
        "cachequant",
        "delta_dit",
        "ertacache",
        "knapsack",
        "magcache",
        "pairs",
        "profilingdit",
        "smoothcache",
        "teacache",
    ),
)


def register(
    name: str,
    plan: Callable[..., Schedule],
    levels: Callable[[Profile], Iterable[Mapping[str, Any]]] = lambda profile: [{}],
) -> None:
    """Make a planner known by name to `make`, `for_speedup` and the search.

    Args:
        name: as in `make`.
        plan: called with the profile and parameters by name. With a parameter `speedup` it is called once.
        levels: settings of its parameters, from the most to the fewest computes; none varies by default.

    Raises:
        DcacheError: another planner has this name.
    """
    PLANNERS.register(name, Planned(plan, levels))


def make(name: str, profile: Profile, **options: Any) -> Schedule:
    """Plan by a planner's name and parameters.

    Raises:
        DcacheError: the planner or a parameter is unknown, or the profile lacks what it needs.
    """
    plan = PLANNERS.get(name).plan
    known = [option for option in inspect.signature(plan).parameters if option != "profile"]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise DcacheError(f"planner {name} takes no {', '.join(unknown)}: it takes {', '.join(known)}")
    return plan(profile, **options)


def for_speedup(profile: Profile, name: str, speedup: float, **options: Any) -> Schedule:
    """The plan with the most computes that is fast enough by the profile's latencies.

    Raises:
        DcacheError: nothing was timed, or no setting of the planner is that fast; the message names the
            fastest.
    """
    if profile.latencies is None:
        raise DcacheError(
            "a speedup needs measured latencies, and this profile has none: observe with timing"
        )
    if "speedup" in inspect.signature(PLANNERS.get(name).plan).parameters:
        found = make(name, profile, **{"speedup": speedup, **options})
        reached = cost.speedup(found, profile.latencies)
        if reached >= speedup:
            return found
        raise DcacheError(
            f"planner {name} was asked for a speedup of {speedup:g}, and its plan is expected to reach "
            f"{reached:.2f}: ask it for more, or take another"
        )
    levels = list(PLANNERS.get(name).levels(profile))

    def planned(i: int) -> tuple[Schedule, bool, float]:
        found = make(name, profile, **{**levels[i], **options})
        expected = cost.speedup(found, profile.latencies) if profile.latencies is not None else 1.0
        return found, expected >= speedup, expected

    # Each level computes less than the one before, so the first that is fast enough is found by bisection.
    low, high = 0, len(levels) - 1
    best, enough, fastest = planned(high)
    while enough and low < high:
        middle = (low + high) // 2
        found, fast, _ = planned(middle)
        best, low, high = (found, low, middle) if fast else (best, middle + 1, high)
    if enough:
        return best
    raise DcacheError(
        f"planner {name} cannot reach a speedup of {speedup:g} here: expected at most {fastest:.2f}, which "
        "its fewest computes give"
    )


def scheduled(profile: Profile, method: str, rows: Mapping[str, Iterable[int]], **plan: Any) -> Schedule:
    """A schedule for the profile's model: site -> computed evaluations; the rest of `Plan` by name."""
    chosen = {site: set(computed) for site, computed in rows.items()}
    table = {site: tuple(t in computed for t in range(profile.steps)) for site, computed in chosen.items()}
    made = Plan({"*": table}, model=profile.model, config=profile.config, **plan)
    return replace(
        Schedule(profile.steps, {profile.component: made}),
        method=method,
        sampler=profile.sampler,
        resolution=profile.resolution,
        guidance=profile.guidance,
    )
