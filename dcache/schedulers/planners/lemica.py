"""LeMiCa (Gao et al. 2025, arXiv 2511.00090): the path whose worst segment is least, by the final pictures.

Evaluations are the nodes of a graph. An edge leads from one computed evaluation to the next; its weight is
the error of the final pictures where the evaluations between them alone are predicted (`Profile.segments`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dcache.errors import DcacheError
from dcache.profile import Floats, Profile
from dcache.schedule import Schedule
from dcache.schedulers.planners.algorithms import Anchors
from dcache.schedulers.planners.pairs import plan_terms
from dcache.schedulers.planners.registry import scheduled
from dcache.util.checks import check_whole


def plan(profile: Profile, computes: int | None = None, predictor: str = "reuse") -> Schedule:
    """The lexicographic minimax path with so many computed evaluations.

    Args:
        profile: with segments.
        computes: number of computed evaluations; None is 45 % of all.
        predictor: "reuse" as published; "taylor", the line on the step, is far closer on the demo; others as
            in the planner `pairs`.

    Raises:
        DcacheError: the profile has no segments, or they allow no path with so many computed evaluations.
    """
    weights = edges(_segments(profile))
    anchors = minimax_path(weights, max(1, round(0.45 * profile.steps)) if computes is None else computes)
    rows = {profile.whole_site: anchors}
    return scheduled(profile, "lemica", rows, **plan_terms(profile, rows, predictor))


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Computes, descending from all evaluations but one to the fewest that the longest segments allow."""
    fewest = fewest_computes(_segments(profile))
    yield from ({"computes": k} for k in range(max(profile.steps - 1, fewest), fewest - 1, -1))


def edges(segments: Floats) -> Floats:
    """(T + 1, T + 1), `[i, j]`: weight of the edge from a computed evaluation to the next one; T is the end.

    It is 0 where nothing is predicted between them, infinite where no segment was measured.

    Args:
        segments: (T, L), as in `Profile.segments`.
    """
    T, L = segments.shape
    weights = np.full((T + 1, T + 1), np.inf)
    for i in range(T):
        weights[i, i + 1] = 0.0
        for n in range(1, min(L, T - 1 - i) + 1):
            weights[i, i + n + 1] = segments[i, n - 1]
    return weights


def minimax_path(weights: Floats, computes: int) -> Anchors:
    """The path from evaluation 0 to the end whose largest weight is least, then its second largest, ...

    Exact, by dynamic programming over the last node: of two paths with equally many edges to a node, the one
    whose weights, sorted in descending order, come first stays ahead whatever edges follow.

    Args:
        weights: (T + 1, T + 1), as `edges` returns.
        computes: number of edges: each begins at a computed evaluation.

    Raises:
        DcacheError: there are not so many evaluations, or there is no such path.
    """
    check_whole("computes", computes, 1)
    end = len(weights) - 1
    if computes > end:
        raise DcacheError(f"{computes} computes do not fit {end} evaluations")
    # Last node -> weights in descending order, and the computed evaluations.
    best: dict[int, tuple[tuple[float, ...], Anchors]] = {0: ((), ())}
    for _ in range(computes):
        longer: dict[int, tuple[tuple[float, ...], Anchors]] = {}
        for i, (sizes, anchors) in best.items():
            for j in range(i + 1, end + 1):
                if np.isfinite(weights[i, j]):
                    path = (tuple(sorted((*sizes, float(weights[i, j])), reverse=True)), (*anchors, i))
                    longer[j] = min(path, longer.get(j, path))
        best = longer
    if end not in best:
        raise DcacheError(
            f"no path through the measured segments has {computes} computed evaluations of {end}: ask for "
            "more, or measure longer segments"
        )
    return best[end][1]


def fewest_computes(segments: Floats) -> int:
    """The fewest computed evaluations of a path: as many as the longest segments leave."""
    T, L = segments.shape
    return -(-T // (L + 1))


def _segments(profile: Profile) -> Floats:
    if profile.segments is None:
        raise DcacheError(
            "lemica plans from the errors of segments, and this profile has none. Measure them: `dcache "
            "calibrate PIPE --segments --out FILE.safetensors` (dcache.search.segments.with_segments)"
        )
    return profile.segments
