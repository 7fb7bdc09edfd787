"""Runs that overlap are split into disjoint runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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
