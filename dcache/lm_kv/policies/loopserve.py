"""LoopServe."""

from __future__ import annotations

from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.scorers import Recency
from dcache.lm_kv.scoring.selectors import LatestQueries
from dcache.util.checks import check_whole


@preset
def loopserve(
    budget: float | None = None, queries: int = 16, sinks: int = 0, window: float = 16, every: int = 16
) -> Policy:
    """Keep all tokens, read those that the latest output attends to (Li et al. 2025, arXiv 2507.13681).

    What is read is chosen anew after so many decoded tokens. It saves reads, not bytes.

    Args:
        budget: tokens that a KV head reads at a step.
        queries: latest ones that choose; at least 1.
        sinks: first tokens that are always read.
        window: newest tokens that are always read.
        every: decoded tokens between two choices, 16 as published; until then new tokens are always read.
    """
    check_whole("queries", queries, 1)
    return Policy(
        scorer=Recency(),
        observer=QueryWindow(queries),
        selector=LatestQueries(),
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
    )
