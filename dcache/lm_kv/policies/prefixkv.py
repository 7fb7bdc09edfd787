"""PrefixKV."""

from __future__ import annotations

from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.mass import MassBefore
from dcache.lm_kv.scoring.observers import ColumnSums


@preset
def prefixkv(budget: float | None = None, sinks: int = 4, window: float = 1, every: int = 32) -> Policy:
    """Keep as many tokens of each layer as reach one share of its attention (Wang et al. 2024, PrefixKV).

    A layer's tokens are put in the order of the attention that they received; all layers are cut where the
    same share of their attention is reached. It must see all weights.

    Args:
        budget: as in `Policy`; it decides the share.
        sinks: first tokens kept beside the score; 4 as published.
        window: newest tokens kept beside the score; 1 as published.
        every: decoded tokens between evictions.
    """
    return Policy(
        scorer=MassBefore(),
        observer=ColumnSums(),
        budget=budget,
        sinks=sinks,
        window=window,
        allocation="global",
        floor=0.0,
        every=every,
    )
