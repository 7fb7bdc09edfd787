"""H2O."""

from __future__ import annotations

from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import ColumnSums
from dcache.lm_kv.scoring.scorers import ReceivedSum


@preset
def h2o(
    budget: float | None = None,
    window: float = 0.5,
    sinks: int = 0,
    allocation: Allocation = "uniform",
    every: int = 32,
) -> Policy:
    """Keep heavy hitters and recent tokens, half and half (Zhang et al. 2023, arXiv 2306.14048).

    Score: the attention that a token received from all queries so far, the mean over the group's heads. It
    must see all weights, so prompts are attended to without fused attention.

    Args:
        budget: as in `Policy`.
        window: newest tokens kept; 0.5 is half the budget, as published.
        sinks: first tokens kept beside the score.
        allocation: as in `Policy`.
        every: decoded tokens between evictions; 1 as published.
    """
    return Policy(
        scorer=ReceivedSum(),
        observer=ColumnSums(),
        budget=budget,
        sinks=sinks,
        window=window,
        allocation=allocation,
        every=every,
    )
