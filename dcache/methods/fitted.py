"""Weights fitted to a profile, at chosen or planned evaluations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dcache.errors import DcacheError
from dcache.method import Method, site_list
from dcache.methods.coefficients import profile_of
from dcache.methods.preset import preset
from dcache.methods.replay import replay
from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.schedulers.planners import for_speedup, scheduled
from dcache.schedulers.planners.gram import RIDGE
from dcache.schedulers.planners.pairs import plan_terms
from dcache.util.checks import check_number, check_whole, check_wholes
from dcache.util.files import how_to_calibrate


@preset("ours; least squares on the Gram matrix of an observed run", sites="any", needs="a profile")
def fitted(
    profile: str | os.PathLike[str] | Profile | Schedule | None = None,
    steps: Sequence[int] | None = None,
    interval: int = 3,
    speedup: float | None = None,
    order: int = 1,
    ridge: float = RIDGE,
    sites: str | list[str] | None = None,
    warmup: int = 2,
) -> Method:
    """Least-squares weights over the last anchors for each evaluation, from an observed run (ours).

    Args:
        profile: of this model, or its file; or a schedule with fitted weights, or its file.
        steps: the computed evaluations; 0 is always computed.
        interval: without `steps`: compute when `interval - 1` predictions have passed since the last compute.
        speedup: without `steps`: compute where the planner `pairs` places it for this expected speedup.
        order: 1 or 2; `order + 1` anchors are read.
        ridge: pulls the weights towards reuse; a share of the power of the differences between anchors.
        sites: sites of the profile; None is the trunk, else a UNet's outermost bracket, else the model.
        warmup: evaluations computed from the start, with `interval`.

    Raises:
        DcacheError: there is no profile, it lacks a site, or a parameter is not valid.
    """
    if profile is None:
        raise DcacheError(
            "fitted needs profile=, a profile of this model or a schedule, and has none. "
            f"{how_to_calibrate('FILE.safetensors')}"
        )
    if isinstance(profile, str | os.PathLike) and Path(profile).suffix == ".json":
        profile = Schedule.load(profile)
    if isinstance(profile, Schedule):
        return replay(profile)
    profile = profile_of("fitted", profile, alternative="")
    if order not in (1, 2):
        raise DcacheError(f"order must be 1 or 2, got {order!r}")
    check_number("ridge", ridge, 0.0)
    check_whole("interval", interval, 1)
    check_whole("warmup", warmup, 1)
    names = site_list(profile.whole_site if sites is None else sites)
    if steps is not None:
        anchors = _listed(profile, steps)
    elif speedup is not None:
        (plan,) = for_speedup(profile, "pairs", speedup, site=names[0], ridge=ridge).components.values()
        anchors = tuple(t for t, computed in enumerate(plan.rows["*"][names[0]]) if computed)
    else:
        anchors = (*range(warmup), *range(warmup + interval - 1, profile.steps, interval))
    rows = {site: tuple(t for t in anchors if t < profile.steps) for site in names}
    schedule = scheduled(profile, "fitted", rows, **plan_terms(profile, rows, "fitted", order, ridge))
    return replay(schedule, profile.component)


def _listed(profile: Profile, steps: Sequence[int]) -> tuple[int, ...]:
    if not set(check_wholes("steps", steps, 0)) <= set(range(profile.steps)):
        raise DcacheError(f"steps must be evaluations from 0 to {profile.steps - 1}, got {steps!r}")
    return tuple(sorted({0, *steps}))
