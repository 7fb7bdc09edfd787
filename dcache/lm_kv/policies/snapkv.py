"""SnapKV."""

from __future__ import annotations

from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.scorers import WindowAttention
from dcache.util.checks import check_odd, check_whole


@preset
def snapkv(
    budget: float | None = None,
    window: int = 64,
    pool: int = 5,
    sinks: int = 0,
    allocation: Allocation = "uniform",
    every: int = 0,
) -> Policy:
    """Keep what the last queries of the prompt attend to (Li et al. 2024, arXiv 2404.14469).

    Score: mean over the group's heads and the window's queries of A[q, k], smoothed by a moving average. With
    `allocation="heads"` this is AdaKV (arXiv 2407.11550), with "layers" PyramidKV (arXiv 2406.02069).

    Args:
        budget: as in `Policy`.
        window: queries that vote, and newest tokens kept; at least 1.
        pool: width of the moving average, odd; 1 where facts are single tokens.
        sinks: first tokens kept beside the score.
        allocation: as in `Policy`.
        every: decoded tokens between evictions; 0 evicts after prompts alone, as published.
    """
    check_whole("window", window, 1)
    check_odd("pool", pool)
    return Policy(
        scorer=WindowAttention(pool),
        observer=QueryWindow(window),
        budget=budget,
        sinks=sinks,
        window=window,
        allocation=allocation,
        every=every,
    )
