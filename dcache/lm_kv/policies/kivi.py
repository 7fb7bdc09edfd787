"""KIVI."""

from __future__ import annotations

from dcache.lm_kv.codecs.low_bit import LowBitCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import Recency


@preset
def kivi(budget: float = 1.0, bits: int = 4, group: int = 64, residual: int = 32) -> Policy:
    """Store keys per channel and values per token in few bits (Liu et al. 2024, arXiv 2402.02750).

    Nothing is evicted; as `codec=kivi(...)` it stores what any other policy keeps. It saves memory: on CPUs
    decoding takes longer, not less.

    Args:
        budget: as in `Policy`; below 1.0 the newest tokens are kept.
        bits: of a number: 2, 3, 4 or 8; 2 as published.
        group: tokens of keys, and channels of values, that share a step; 32 as published.
        residual: newest tokens of a row that stay as they came, at least; 128 as published.
    """
    return Policy(
        scorer=Recency(), budget=budget, sinks=0, window=0, codec=LowBitCodec(bits, group, residual)
    )
