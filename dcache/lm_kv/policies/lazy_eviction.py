"""LazyEviction."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.recurrence import NextUse, Recurrence
from dcache.util.checks import check_whole, is_number


@preset
def lazy_eviction(
    budget: float | None = None,
    window: int = 64,
    threshold: float = 1e-4,
    sinks: int = 0,
    allocation: Allocation = "uniform",
    every: int = 64,
) -> Policy:
    """Keep tokens whose next use is due, for long reasoning (Zhang et al. 2025, arXiv 2506.15969).

    Score: 2 sigma(-(t - last) / pause) + 2 sigma(-1 / pause), with the last use of a token and the longest
    pause between two of its uses.

    Args:
        budget: as in `Policy`.
        window: queries that are looked at before an eviction, and newest tokens kept; at least 1.
        threshold: attention above which a token is used; from 0 to 1.
        sinks: first tokens kept beside the score.
        allocation: as in `Policy`.
        every: decoded tokens between evictions; `window` as published.
    """
    check_whole("window", window, 1)
    if not is_number(threshold) or not 0.0 <= threshold <= 1.0:
        raise DcacheError(f"threshold must be a number from 0 to 1, got {threshold!r}")
    return Policy(
        scorer=NextUse(),
        observer=Recurrence(window, threshold),
        budget=budget,
        sinks=sinks,
        window=window,
        allocation=allocation,
        every=every,
    )
