"""D2O."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import ColumnSums
from dcache.lm_kv.scoring.preference import EvenLayers
from dcache.lm_kv.scoring.scorers import ReceivedSum
from dcache.lm_kv.storage.nearest import MergeInto
from dcache.util.checks import check_number, is_number


@preset
def d2o(
    budget: float | None = None,
    window: float = 0.25,
    sinks: int = 4,
    ratio: float = 2.0,
    threshold: float | None = None,
    allocation: Allocation = "preference",
    every: int = 32,
) -> Policy:
    """Keep heavy hitters, merge tokens with like keys into them (Wan et al. 2024, arXiv 2406.13035).

    Tokens are scored as `h2o` does. A lost token is merged into the kept one with the most similar key, where
    the cosine reaches the threshold. It must see all weights.

    Args:
        budget: as in `Policy`.
        window: newest tokens kept; a float is a share of the budget.
        sinks: first tokens kept beside the score.
        ratio: what layers with evenly spread attention get, of what others do; at least 1.
        threshold: cosine from -1 to 1; None for the mean over the tokens that a head loses.
        allocation: "preference" as published.
        every: decoded tokens between evictions; 1 as published.
    """
    check_number("ratio", ratio, 1)
    if threshold is not None and (not is_number(threshold) or not -1.0 <= threshold <= 1.0):
        raise DcacheError(f"threshold must be a number from -1 to 1, or None, got {threshold!r}")
    return Policy(
        scorer=ReceivedSum(),
        observer=ColumnSums(),
        preference=EvenLayers(ratio),
        reducer=MergeInto("exponential", threshold),
        budget=budget,
        sinks=sinks,
        window=window,
        allocation=allocation,
        every=every,
    )
