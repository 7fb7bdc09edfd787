"""XQuant-CL."""

from __future__ import annotations

from dcache.lm_kv.codecs.cross_layer import CrossLayerCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import Recency


@preset
def xquant_cl(
    budget: float = 1.0,
    bits: int = 3,
    base: int = 3,
    base_bits: int = 4,
    group: int = 128,
    residual: int = 32,
    every: int = 128,
) -> Policy:
    """Few bits of how a layer's input differs from the one below (Tomar et al. 2025, arXiv 2508.10395).

    Of the input X_l of a layer's attention D_l = X_l - S_(l-1) is stored, S_l = S_(l-1) + the rounded D_l and
    S_(-1) = 0; K = turn(S_l W_k), V = S_l W_v. Where keys and values together are narrower than X, D_l is
    stored along the directions on which they depend. Nothing is evicted. Positions must be rotations.

    Args:
        budget: 1.0, all tokens.
        bits: of a number: 2, 3, 4 or 8.
        base: layers, from the first on, with `base_bits`; at least 1.
        base_bits: of their numbers.
        group: tokens of a channel that share a step; 128 as published.
        residual: newest tokens of a row that stay as they came.
        every: decoded tokens that are encoded together; 0 encodes prompts alone.
    """
    codec = CrossLayerCodec(bits, base, base_bits, group, residual)
    return Policy(scorer=Recency(), budget=budget, sinks=0, window=0, every=every, codec=codec)
