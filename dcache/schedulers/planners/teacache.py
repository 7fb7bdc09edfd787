"""TeaCache (Liu et al. 2024): its polynomial, and the run it makes when the changes are as observed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from dcache.errors import DcacheError, DcacheWarning
from dcache.profile import Floats, Profile
from dcache.schedule import Schedule
from dcache.schedulers import Accumulated, guarded
from dcache.schedulers.planners.registry import scheduled
from dcache.schedulers.simulate import simulate
from dcache.sites.site import Site

DEGREE = 4
POOR = 0.8


def plan(profile: Profile, threshold: float = 0.25, warmup: int = 1, last: bool = True) -> Schedule:
    """The trunk is computed where `methods.teacache` would compute it if it saw the mean observed changes.

    What that method sees while running differs with the prompt, and with what was predicted before.

    Args:
        profile: with changes.
        threshold: predicted while the sum of rescaled changes is below it.
        warmup: evaluations computed from the start.
        last: compute the last evaluation.

    Raises:
        DcacheError: the profile has no changes, or not those of all evaluations.
    """
    polynomial, _ = coefficients(profile)
    rule = guarded(Accumulated(threshold, polynomial), warmup=warmup, last=last)
    seen = [float("inf"), *_changes(profile).reshape(-1, profile.steps - 1, 2)[:, :, 0].mean(axis=0)]
    computed = simulate(rule, profile.steps, Site("trunk", "trunk"), seen)
    return scheduled(profile, "teacache", {"trunk": computed}, codec="delta")


def coefficients(profile: Profile) -> tuple[tuple[float, ...], float]:
    """The polynomial of degree 4, highest power first, by least squares; and its R^2.

    It takes the relative L1 change of what the first block gives its attention to that of the trunk's delta.
    Warns where it explains little.

    Raises:
        DcacheError: the profile has no changes, or not those of all evaluations.
    """
    x, y = _changes(profile).T
    fitted = np.polyfit(x, y, DEGREE)
    spread = float(((y - y.mean()) ** 2).sum())
    left = float(((y - np.polyval(fitted, x)) ** 2).sum())
    quality = 1.0 - left / spread if spread else 1.0
    if quality < POOR:
        warnings.warn(
            f"teacache's polynomial explains {quality:.0%} of how the trunk's delta changes (R^2, "
            f"{len(x)} points): the numbers are poor. Observe more prompts, or plan with another method",
            DcacheWarning,
            stacklevel=2,
        )
    return tuple(map(float, fitted)), quality


def levels(_: Profile) -> Iterable[dict[str, Any]]:
    """Thresholds, from the strictest; then without the last evaluation."""
    yield from ({"threshold": float(t)} for t in (0.0, *np.geomspace(0.01, 100.0, 120)))
    yield {"threshold": 1e9, "last": False}


def _changes(profile: Profile) -> Floats:
    """(N, 2), for each picture and branch those of evaluations 1 to T - 1."""
    found, each = profile.input_output_changes, profile.steps - 1
    if found is None:
        raise DcacheError(
            "teacache plans from changes of what the first block gives its attention, and this profile has "
            "none: they are observed where there is a trunk whose attention is declared "
            "(docs/add-a-family.md)"
        )
    distinct = len(np.unique(found[:, 0]))
    if each < 1 or len(found) % each or distinct <= DEGREE:
        raise DcacheError(
            f"teacache plans from {each} changes for each picture and branch, with more than {DEGREE} "
            f"different ones in all, and the profile has {len(found)}, {distinct} of them different: observe "
            "whole runs, with more steps"
        )
    return found
