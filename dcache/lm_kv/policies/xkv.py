"""xKV."""

from __future__ import annotations

from dcache.lm_kv.codecs.shared_basis import SharedBasisCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import Recency


@preset
def xkv(
    budget: float = 1.0, layers: int = 4, rank: int = 512, value_rank: int = 768, residual: int = 32
) -> Policy:
    """Neighbouring layers share one basis of a prompt's tokens (Chang et al. 2025, arXiv 2503.18893).

    Keys before rotation and values of a group of layers lie side by side and are cut to their strongest
    directions by a singular value decomposition, once after a prompt. What is decoded stays as it comes.
    Nothing is evicted. Positions must be rotations.

    Args:
        budget: 1.0, all tokens.
        layers: neighbours that share a basis; 4 as published.
        rank: directions of a group's keys; at least 1, 512 as published for 4096 features.
        value_rank: directions of a group's values; at least 1, 768 as published.
        residual: newest tokens of a prompt that stay as they came.
    """
    return Policy(
        scorer=Recency(),
        budget=budget,
        sinks=0,
        window=0,
        codec=SharedBasisCodec(layers, rank, value_rank, residual),
    )
