"""KeyDiff."""

from __future__ import annotations

from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import KeyDistance


@preset
def keydiff(
    budget: float | None = None,
    sinks: int = 0,
    window: float = 0,
    allocation: Allocation = "uniform",
    every: int = 0,
) -> Policy:
    """Keep the keys least like the others (Park et al. 2025, arXiv 2504.15364).

    Score: -cos(k_i, mean_j k_j / |k_j|). It reads keys alone, so it costs least of all.

    Args:
        budget: as in `Policy`.
        sinks: first tokens kept beside the score.
        window: newest tokens kept beside the score.
        allocation: as in `Policy`.
        every: decoded tokens between evictions; 0 evicts after prompts alone.
    """
    return Policy(
        scorer=KeyDistance(), budget=budget, sinks=sinks, window=window, allocation=allocation, every=every
    )
