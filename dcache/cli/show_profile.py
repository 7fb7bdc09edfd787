"""A profile as text: what was observed, and a row for each site."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dcache.eval.rows import aligned
from dcache.profile import Profile


def draw_profile(profile: Profile) -> Iterator[str]:
    """The lines of a profile."""
    facts = [
        f"{profile.model or 'denoiser'}: {profile.steps} evaluations, mean of {profile.prompts} pictures"
    ]
    facts += [profile.sampler] if profile.sampler else []
    facts += [f"guidance {profile.guidance:g}"] if profile.guidance is not None else []
    facts += ["x".join(map(str, profile.resolution))] if profile.resolution else []
    yield "profile of " + ", ".join(facts)
    timed = profile.latencies
    if timed is not None:
        yield f"a call of {timed.pictures} picture(s) without caching: {timed.uncached:.3g} s"
    if profile.sketch:
        yield f"Gram matrices from sketches, standard error {profile.sketch:.1%}"
    tables = [name for name, there in _optional(profile).items() if there]
    yield f"further tables: {', '.join(tables) or 'none'}"
    yield ""
    yield aligned(_rows(profile))
    yield ""
    yield "change: mean relative L1 change between evaluations; seconds and FLOPs: of one evaluation"


def profile_content(profile: Profile) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "model": profile.model,
        "component": profile.component,
        "steps": profile.steps,
        "prompts": profile.prompts,
        "sampler": profile.sampler,
        "guidance": profile.guidance,
        "resolution": list(profile.resolution),
        "sketch": profile.sketch,
        "sites": {site: {"change": change(profile, site)} for site in profile.sites},
        "uncached_seconds": None if profile.latencies is None else profile.latencies.uncached,
        "made": dict(profile.made),
    }


def change(profile: Profile, site: str) -> float:
    """Mean relative L1 change of a site's feature from one evaluation to the next, in its usual frame."""
    tables = profile.tables(site)
    moved = np.diagonal(tables.distance, 1)
    return float(np.mean(moved / np.maximum(tables.size[:-1], np.finfo(np.float64).tiny)))


def _optional(profile: Profile) -> dict[str, bool]:
    return {
        "MagCache's ratios": profile.ratios is not None,
        "TeaCache's pairs": profile.input_output_changes is not None,
        f"importance of {', '.join(profile.important)}": profile.importance is not None,
        "attention to the foreground": bool(profile.attention),
    }


def _rows(profile: Profile) -> list[list[str]]:
    timed = profile.latencies
    rows = [["site", "branches", "change", *(["computed", "predicted", "GFLOPs"] if timed else [])]]
    for site, branches in profile.sites.items():
        row = [site, ", ".join(map(str, branches)), f"{change(profile, site):.3f}"]
        if timed is not None:
            # A profile may have timed some of its sites only.
            row += [_seconds(timed.computed.get(site)), _seconds(timed.predicted.get(site))]
            row.append(f"{timed.flops[site] / 1e9:.3g}" if site in timed.flops else "-")
        rows.append(row)
    return rows


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} s"
