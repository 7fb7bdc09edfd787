"""Scissorhands."""

from __future__ import annotations

from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.window_scorers import Pivotal
from dcache.util.checks import check_whole


@preset
def scissorhands(
    budget: float | None = None,
    history: int = 400,
    window: float = 10,
    sinks: int = 0,
    allocation: Allocation = "uniform",
    every: int = 32,
) -> Policy:
    """Keep what few of the last queries ignored (Liu et al. 2023, arXiv 2305.17118).

    Score: minus how many of the last queries gave a token less than an even share of their attention.

    Args:
        budget: as in `Policy`.
        history: last queries whose attention is counted; at least 1.
        window: newest tokens kept.
        sinks: first tokens kept beside the score.
        allocation: as in `Policy`.
        every: decoded tokens between evictions; the paper drops half of a full buffer at once.
    """
    check_whole("history", history, 1)
    return Policy(
        scorer=Pivotal(),
        observer=QueryWindow(history),
        budget=budget,
        sinks=sinks,
        window=window,
        allocation=allocation,
        every=every,
    )
