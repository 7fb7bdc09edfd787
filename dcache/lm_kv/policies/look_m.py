"""LOOK-M."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.text_sums import MarkedSums, TextFirst
from dcache.lm_kv.storage.nearest import WEIGHTS, MergeInto


@preset
def look_m(
    budget: float | None = None,
    merge: str = "pivot",
    window: float = 0.5,
    sinks: int = 0,
    allocation: Allocation = "uniform",
    every: int = 32,
) -> Policy:
    """Keep text before images, merge the rest by the likeness of keys (Wan et al. 2024, arXiv 2406.18139).

    Which tokens are images' is said by `KVCache.mark`; where nothing is, all are text. It must see all
    weights.

    Args:
        budget: as in `Policy`; 0.2 as published.
        merge: "average", "pivot" or "weighted", as published, or "exponential".
        window: newest tokens kept; a float is a share of the budget.
        sinks: first tokens kept beside the score.
        allocation: as in `Policy`.
        every: decoded tokens between evictions.
    """
    if merge not in WEIGHTS:
        raise DcacheError(f"merge must be one of {', '.join(WEIGHTS)}, got {merge!r}")
    return Policy(
        scorer=TextFirst(),
        observer=MarkedSums(),
        reducer=MergeInto(merge, -1.0),
        budget=budget,
        sinks=sinks,
        window=window,
        allocation=allocation,
        every=every,
    )
