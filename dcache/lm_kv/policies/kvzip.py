"""KVzip."""

from __future__ import annotations

from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import Reconstruction


@preset
def kvzip(
    budget: float | None = None,
    sinks: int = 0,
    window: float = 0,
    allocation: Allocation = "global",
    every: int = 0,
) -> Policy:
    """Keep what is attended to while the text is read a second time (Kim et al. 2025, arXiv 2505.23416).

    Score: the largest attention that a token receives during a read-only forward of the row's own text behind
    the cache. It costs a second prompt, and holds the full cache until then.

    Args:
        budget: as in `Policy`.
        sinks: first tokens kept beside the score.
        window: newest tokens kept beside the score.
        allocation: "global" as published; it pays with this score more than with any other.
        every: decoded tokens between evictions; 0 evicts after prompts alone.
    """
    return Policy(
        scorer=Reconstruction(), budget=budget, sinks=sinks, window=window, allocation=allocation, every=every
    )
