"""GEAR."""

from __future__ import annotations

from dcache.lm_kv.codecs.gear import GearCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import Recency


@preset
def gear(
    budget: float = 1.0,
    bits: int = 2,
    group: int = 64,
    residual: int = 32,
    rank: int = 2,
    outliers: float = 0.02,
) -> Policy:
    """Store few bits, and what they miss by low rank and outliers (Kang et al. 2024, arXiv 2403.05527).

    Nothing is evicted; as `codec=gear(...)` it stores what any other policy keeps. It saves memory: on CPUs
    decoding takes longer, not less.

    Args:
        budget: as in `Policy`; below 1.0 the newest tokens are kept.
        bits: of a number: 2, 3, 4 or 8; 2 as published, beside 4.
        group: tokens of keys, and channels of values, that share a step; tokens that share directions.
        residual: newest tokens of a row that stay as they came, at least.
        rank: directions of a group of tokens; 0 for none.
        outliers: share of a group's numbers that are stored as they are, half of them the largest, half the
            smallest, at least one of each; 0 for none.
    """
    codec = GearCodec(bits, group, residual, rank, outliers)
    return Policy(scorer=Recency(), budget=budget, sinks=0, window=0, codec=codec)
