"""Coefficients file of a profile, read by the presets `teacache`, `magcache` and `smoothcache`."""

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
    """The numbers for each preset, computed from a profile.

    Args:
        profile: an observed profile.
        alpha: SmoothCache's threshold for the default table.

    Returns:
        Preset -> content of its entry; and preset -> reason, for presets that the profile has no data for.
    """
    entries: dict[str, Any] = {}
    missing: dict[str, str] = {}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "teacache": partial(_teacache, profile),
        "magcache": partial(_magcache, profile),
        "smoothcache": partial(_smoothcache, profile, alpha),
    }
    for preset, part in parts.items():
        try:
            entries[preset] = part()
        except DcacheError as error:
            missing[preset] = str(error)
    return entries, missing


def save(
    profile: Profile,
    path: Path,
    source: dict[str, Any],
    alpha: float = ALPHA,
    more: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write the coefficients file; returns the same as `coefficients`.

    Args:
        profile: an observed profile.
        path: the file.
        source: further entries about the pipeline and its calls, for the file's `of`.
        alpha: as in `coefficients`.
        more: entries of presets whose numbers are in no profile.

    Raises:
        DcacheError: the profile has no data for any preset, or the file cannot be written.
    """
    entries, missing = coefficients(profile, alpha)
    if not entries:
        raise DcacheError("the profile has no data for any preset: " + "; ".join(missing.values()))
    entries |= more or {}
    about = {
        "model": profile.model,
        "config": profile.config,
        "component": profile.component,
        "sampler": profile.sampler,
        "evaluations": profile.steps,
    }
    write_json(path, {"format": FORMAT, "version": VERSION, "of": about | source, **entries})
    return entries, missing


def _teacache(profile: Profile) -> dict[str, Any]:
    changes = profile.input_output_changes
    if changes is not None and len({float(x) for x, _ in changes}) <= teacache.DEGREE + 1:
        raise DcacheError(
            f"{len(changes)} observed changes are too few for a polynomial of degree {teacache.DEGREE}: "
            "observe more steps"
        )
    polynomial, quality = teacache.coefficients(profile)
    if changes is None:
        raise DcacheError("no changes of the trunk were observed")
    return {
        "coefficients": [float(f"{c:.9g}") for c in polynomial],
        "r2": round(quality, 4),
        "points": len(changes),
        "inputs_between": [round(float(x), 6) for x in (changes[:, 0].min(), changes[:, 0].max())],
    }


def _magcache(profile: Profile) -> dict[str, Any]:
    if profile.ratios is None:
        raise DcacheError(f"dcache finds no list of blocks in {profile.model}")
    deviation = profile.made.get("ratios_deviation", 0.0)
    return {"ratios": [round(float(r), 6) for r in profile.ratios], "largest_deviation": deviation}


def _smoothcache(profile: Profile, alpha: float) -> dict[str, Any]:
    return {
        "alpha": alpha,
        "table": _table(profile, alpha),
        "tables": {f"{a:g}": _table(profile, a) for a in ALPHAS},
    }


def _table(profile: Profile, alpha: float) -> dict[str, list[int]]:
    """A row of 0 and 1 for every kind of sublayer; 1 is computed."""
    (plan,) = smoothcache.plan(profile, alpha).components.values()
    rows = next(iter(plan.rows.values()))
    return {
        kind: [int(computed) for computed in rows[profile.of_kind(kind)[0]]]
        for kind in smoothcache.KINDS
        if profile.of_kind(kind)
    }
