"""A profile as the file of numbers that the presets `teacache`, `magcache` and `smoothcache` read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError
from dcache.profile import Profile
from dcache.schedulers.planners import smoothcache, teacache
from dcache.util.files import write_json

FORMAT, VERSION = "dcache.coefficients", 1
ALPHA = 0.15
ALPHAS = (0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)


def coefficients(profile: Profile, alpha: float = ALPHA) -> tuple[dict[str, Any], dict[str, str]]:
    """What the profile tells each preset; and of the others, why it tells them nothing.

    Args:
        profile: an observed one.
        alpha: SmoothCache's threshold of the table that is used where none is named.
    """
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "teacache": partial(_teacache, profile),
        "magcache": partial(_magcache, profile),
        "smoothcache": partial(_smoothcache, profile, alpha),
    }
    for preset, part in parts.items():
        try:
            found[preset] = part()
        except DcacheError as error:
            missing[preset] = str(error)
    return found, missing


def save(
    profile: Profile,
    path: Path,
    of: dict[str, Any],
    alpha: float = ALPHA,
    more: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write the file; returns what `coefficients` does.

    Args:
        profile: an observed one.
        path: where to.
        of: what else to say of the pipeline and its calls.
        alpha: as in `coefficients`.
        more: entries of presets whose numbers are in no profile.

    Raises:
        DcacheError: the profile tells no preset anything, or the file cannot be written.
    """
    found, missing = coefficients(profile, alpha)
    if not found:
        raise DcacheError("nothing could be measured. " + "; ".join(missing.values()))
    found |= more or {}
    about = {
        "model": profile.model,
        "config": profile.config,
        "component": profile.component,
        "sampler": profile.sampler,
        "evaluations": profile.steps,
    }
    write_json(path, {"format": FORMAT, "version": VERSION, "of": about | of, **found})
    return found, missing


def _teacache(profile: Profile) -> dict[str, Any]:
    changes = profile.input_output_changes
    if changes is not None and len({float(x) for x, _ in changes}) <= teacache.DEGREE + 1:
        raise DcacheError(
            f"{len(changes)} changes are too few for a polynomial of degree {teacache.DEGREE}: observe more "
            "steps"
        )
    polynomial, quality = teacache.coefficients(profile)
    if changes is None:
        raise DcacheError("no changes were observed")
    return {
        "coefficients": [float(f"{c:.9g}") for c in polynomial],
        "r2": round(quality, 4),
        "points": len(changes),
        "inputs_between": [round(float(x), 6) for x in (changes[:, 0].min(), changes[:, 0].max())],
    }


def _magcache(profile: Profile) -> dict[str, Any]:
    if profile.ratios is None:
        raise DcacheError(f"{profile.model} has no list of blocks that dcache recognises")
    deviation = profile.made.get("ratios_deviation", 0.0)
    return {"ratios": [round(float(r), 6) for r in profile.ratios], "largest_deviation": deviation}


def _smoothcache(profile: Profile, alpha: float) -> dict[str, Any]:
    return {
        "alpha": alpha,
        "table": _table(profile, alpha),
        "tables": {f"{a:g}": _table(profile, a) for a in ALPHAS},
    }


def _table(profile: Profile, alpha: float) -> dict[str, list[int]]:
    """A row for every kind of sublayer."""
    (plan,) = smoothcache.plan(profile, alpha).components.values()
    rows = next(iter(plan.rows.values()))
    return {
        kind: [int(computed) for computed in rows[profile.of_kind(kind)[0]]]
        for kind in smoothcache.KINDS
        if profile.of_kind(kind)
    }
