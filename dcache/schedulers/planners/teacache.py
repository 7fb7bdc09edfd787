"""TeaCache (Liu et al. 2024): its polynomial, fitted to a profile, and its run with the observed changes."""

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
    """The trunk is computed where `methods.teacache` would compute it with the mean observed changes.

    In a run of that method the changes depend on the prompt and on earlier predictions.

    Args:
        profile: with `input_output_changes`.
        threshold: predicted while the sum of rescaled changes is below it.
        warmup: evaluations computed from the start.
        last: compute the last evaluation.

    Raises:
        DcacheError: the profile has no changes, or not those of all evaluations.
    """
    polynomial, _ = coefficients(profile)
    rule = guarded(Accumulated(threshold, polynomial), warmup=warmup, last=last)
    changes = _changes(profile).reshape(-1, profile.steps - 1, 2)[:, :, 0].mean(axis=0)
    computed = simulate(rule, profile.steps, Site("trunk", "trunk"), [float("inf"), *changes])
    return scheduled(profile, "teacache", {"trunk": computed}, codec="delta")


def coefficients(profile: Profile) -> tuple[tuple[float, ...], float]:
    """The polynomial of degree 4, highest power first, by least squares; and its R^2.

    It maps the relative L1 change of the first block's attention input to that of the trunk's delta. Warns if
    R^2 is below 0.8.

    Raises:
        DcacheError: the profile has no changes, or not those of all evaluations.
    """
    x, y = _changes(profile).T
    fitted = np.polyfit(x, y, DEGREE)
    spread = float(((y - y.mean()) ** 2).sum())
    residual = float(((y - np.polyval(fitted, x)) ** 2).sum())
    quality = 1.0 - residual / spread if spread else 1.0
    if quality < POOR:
        warnings.warn(
            f"teacache's polynomial explains {quality:.0%} of how the trunk's delta changes (R^2, "
            f"{len(x)} points): the numbers are poor. Observe more prompts, or plan with another method",
            DcacheWarning,
            stacklevel=2,
        )
    return tuple(map(float, fitted)), quality


def levels(_: Profile) -> Iterable[dict[str, Any]]:
    """Thresholds, ascending; last without the last evaluation."""
    yield from ({"threshold": float(t)} for t in (0.0, *np.geomspace(0.01, 100.0, 120)))
    yield {"threshold": 1e9, "last": False}


def _changes(profile: Profile) -> Floats:
    """(N, 2): for each picture and branch, the changes at evaluations 1 to T - 1."""
    changes, each = profile.input_output_changes, profile.steps - 1
    if changes is None:
        raise DcacheError(
            "teacache plans from changes of the first block's attention input, and this profile has none: "
            "they are observed if the model has a trunk"
        )
    distinct = len(np.unique(changes[:, 0]))
    if each < 1 or len(changes) % each or distinct <= DEGREE:
        raise DcacheError(
            f"teacache plans from {each} changes for each picture and branch, with more than {DEGREE} "
            f"different ones in total, and the profile has {len(changes)}, {distinct} of them different: "
            "observe whole runs, with more steps"
        )
    return changes
