"""Sites that overlap: runs are split into disjoint runs, sites inside others are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import nn

from dcache.errors import DcacheError
from dcache.sites.site import Site


def split_overlapping_runs(sites: Sequence[Site]) -> list[Site]:
    """Split runs that overlap into disjoint runs, at every first and last block.

    A run's delta is the sum of the deltas of its parts, so predicting all parts equals predicting the run.
    """
    runs = [s for s in sites if s.is_run]
    ordered = sorted(runs, key=lambda s: (s.first, s.last))
    if all(b.first > a.last for a, b in pairwise(ordered)):
        return list(sites)
    edges = sorted({s.first for s in runs} | {s.last + 1 for s in runs})
    atoms = []
    for first, after in pairwise(edges):
        last = after - 1
        if any(s.first <= first and last <= s.last for s in runs):
            same = next((s for s in runs if (s.first, s.last) == (first, last)), None)
            name = f"block:{first}" if first == last else f"run:{first}-{last}"
            atoms.append(same or Site(name, "block" if first == last else "run", first, last))
    return [*(s for s in sites if not s.is_run), *atoms]


def refuse_nested(parts: Mapping[Site, Sequence[nn.Module]]) -> None:
    """Check that no site lies inside a run or bracket: where that is predicted, it is not called.

    Args:
        parts: site -> its modules. The whole model has none: a trace of a run that fell back to it has rows
            of it and of its parts.

    Raises:
        DcacheError: one does.
    """
    if len(parts) < 2:
        return
    for outer, modules in parts.items():
        if not outer.is_run and outer.kind != "bracket":
            continue
        inside = {module for part in modules for module in part.modules()}
        inner = next((s for s in parts if s != outer and inside.intersection(parts[s])), None)
        if inner is not None:
            raise DcacheError(
                f"site {inner.name!r} lies inside site {outer.name!r}, which is predicted as a whole: choose "
                f"one of them, got {[site.name for site in parts]}"
            )
