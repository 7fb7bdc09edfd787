"""Planners by name. A planner is a pure function Profile -> Schedule in one file.

A planner's parameters decide how much it computes. Its `levels` are settings of the parameters from the most
to the fewest computes; `for_speedup` takes the first one that is fast enough by the profile's latencies.
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
    """A planner: a module of this package, or a `Planned`."""

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
    """A planner from its two functions, as in `Planner`."""

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
        "lemica",
        "magcache",
        "pairs",
        "profilingdit",
        "smoothcache",
        "teacache",
        "tuned",
    ),
)


def register(
    name: str,
    plan: Callable[..., Schedule],
    levels: Callable[[Profile], Iterable[Mapping[str, Any]]] = lambda profile: [{}],
) -> None:
    """Register a planner by name for `make`, `for_speedup` and the search.

    Args:
        name: the planner's name.
        plan: called with the profile and parameters by name. If it has a parameter `speedup`, `for_speedup`
            passes that instead of trying levels.
        levels: settings of its parameters, from the most to the fewest computes; by default one, without
            parameters.

    Raises:
        DcacheError: the name is taken.
    """
    PLANNERS.register(name, Planned(plan, levels))


def make(name: str, profile: Profile, **options: Any) -> Schedule:
    """The schedule of a planner, by its name and parameters.

    Raises:
        DcacheError: the planner or a parameter is unknown, or the profile lacks a table that it needs.
    """
    plan = PLANNERS.get(name).plan
    known = [option for option in inspect.signature(plan).parameters if option != "profile"]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise DcacheError(f"planner {name} takes no {', '.join(unknown)}: it takes {', '.join(known)}")
    return plan(profile, **options)


def for_speedup(profile: Profile, name: str, speedup: float, **options: Any) -> Schedule:
    """The planner's schedule with the most computes that is fast enough by the profile's latencies.

    Raises:
        DcacheError: the profile has no latencies, or no setting of the planner is fast enough; the message
            names the largest speedup.
    """
    if profile.latencies is None:
        raise DcacheError(
            "a speedup needs measured latencies, and this profile has none: observe with timing"
        )
    if "speedup" in inspect.signature(PLANNERS.get(name).plan).parameters:
        schedule = make(name, profile, **{"speedup": speedup, **options})
        expected = cost.speedup(schedule, profile.latencies)
        if expected >= speedup:
            return schedule
        raise DcacheError(
            f"planner {name} was asked for a speedup of {speedup:g}, and its plan is expected to reach "
            f"{expected:.2f}: ask for more, or use another planner"
        )
    levels = list(PLANNERS.get(name).levels(profile))

    def planned(i: int) -> tuple[Schedule, bool, float]:
        schedule = make(name, profile, **{**levels[i], **options})
        expected = cost.speedup(schedule, profile.latencies) if profile.latencies is not None else 1.0
        return schedule, expected >= speedup, expected

    # Each level computes less than the one before, so bisection finds the first that is fast enough.
    low, high = 0, len(levels) - 1
    best, enough, fastest = planned(high)
    while enough and low < high:
        middle = (low + high) // 2
        schedule, fast, _ = planned(middle)
        best, low, high = (schedule, low, middle) if fast else (best, middle + 1, high)
    if enough:
        return best
    raise DcacheError(
        f"planner {name} cannot reach a speedup of {speedup:g} here: expected at most {fastest:.2f}, with "
        "its fewest computes"
    )


def scheduled(profile: Profile, method: str, rows: Mapping[str, Iterable[int]], **plan: Any) -> Schedule:
    """A schedule for the profile's model.

    Args:
        profile: the profile; the schedule has its model, sampler, resolution and guidance.
        method: name of the planner.
        rows: site -> computed evaluations.
        **plan: further fields of `Plan`.
    """
    computed = {site: set(steps) for site, steps in rows.items()}
    table = {site: tuple(t in steps for t in range(profile.steps)) for site, steps in computed.items()}
    denoiser_plan = Plan({"*": table}, model=profile.model, config=profile.config, **plan)
    return replace(
        Schedule(profile.steps, {profile.component: denoiser_plan}),
        method=method,
        sampler=profile.sampler,
        resolution=profile.resolution,
        guidance=profile.guidance,
    )
