"""MiKV."""

from __future__ import annotations

from dcache.lm_kv.codecs.low_bit import LowBitCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import ColumnSums
from dcache.lm_kv.scoring.scorers import ReceivedSum
from dcache.lm_kv.storage.reducers import Demote


@preset
def mikv(
    budget: float | None = None, low: int = 2, group: int = 32, window: float = 0.5, every: int = 32
) -> Policy:
    """Store in few bits what h2o would evict (after Yang et al. 2024, arXiv 2402.18096).

    Nothing is evicted; what is kept stays as it came. A token that fell to few bits stays there. It must see
    all weights.

    Args:
        budget: tokens that stay as they came, as in `Policy`.
        low: bits of the others: 2, 3, 4 or 8.
        group: tokens of keys, and channels of values, that share a step.
        window: newest tokens that stay as they came; a float is a share of the budget.
        every: decoded tokens between two rankings.
    """
    return Policy(
        scorer=ReceivedSum(),
        observer=ColumnSums(),
        reducer=Demote(LowBitCodec(low, group, 0)),
        budget=budget,
        sinks=0,
        window=window,
        every=every,
    )
