"""Expected attention."""

from __future__ import annotations

from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import QueryMoments
from dcache.lm_kv.scoring.scorers import ExpectedAttention
from dcache.util.checks import check_whole


@preset
def expected_attention(
    budget: float | None = None,
    future: int = 512,
    sinks: int = 4,
    window: float = 0,
    allocation: Allocation = "uniform",
    every: int = 0,
) -> Policy:
    """Keep what future queries are expected to attend to (Devoto et al. 2025, arXiv 2510.00636).

    Score: softmax(s K mu + s^2 K^T Sigma K / 2) |v|, with mean and covariance of past queries before
    rotation, turned by the mean of the next rotations.

    Args:
        budget: as in `Policy`.
        future: positions ahead over which the rotation is averaged; at least 1.
        sinks: first tokens kept beside the score; neither they nor their queries count in it.
        window: newest tokens kept beside the score.
        allocation: as in `Policy`.
        every: decoded tokens between evictions; 0 evicts after prompts alone.
    """
    check_whole("future", future, 1)
    return Policy(
        scorer=ExpectedAttention(future, skip=sinks),
        observer=QueryMoments(skip=sinks),
        budget=budget,
        sinks=sinks,
        window=window,
        allocation=allocation,
        every=every,
    )
