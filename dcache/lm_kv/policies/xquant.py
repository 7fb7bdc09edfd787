"""XQuant."""

from __future__ import annotations

from dcache.lm_kv.codecs.rematerialised import LatentCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import Recency


@preset
def xquant(
    budget: float = 1.0, bits: int = 4, group: int = 128, residual: int = 32, every: int = 128
) -> Policy:
    """Keys and values made again of few bits of a layer's input (Tomar et al. 2025, arXiv 2508.10395).

    Where each query head has a KV head, the input X of a layer's attention is stored; K = X W_k is turned to
    its positions and V = X W_v. Where query heads share KV heads, the latents X U_k and X U_v are stored,
    W = U S B^T a projection's singular value decomposition; K = (X U_k) S_k B_k^T and V = (X U_v) S_v B_v^T.
    Nothing is evicted. Positions must be rotations.

    Args:
        budget: 1.0, all tokens.
        bits: of a number: 2, 3, 4 or 8.
        group: tokens of a channel, and latents of a token's values, that share a step; 128 as published.
        residual: newest tokens of a row that stay as they came.
        every: decoded tokens that are encoded together; 0 encodes prompts alone.
    """
    codec = LatentCodec(bits, group, residual)
    return Policy(scorer=Recency(), budget=budget, sinks=0, window=0, every=every, codec=codec)
