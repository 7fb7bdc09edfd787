"""MiniCache."""

from __future__ import annotations

from dcache.lm_kv.codecs.shared_directions import SharedDirectionsCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import Recency


@preset
def minicache(
    budget: float = 1.0, t: float = 0.6, gamma: float = 0.05, start: float = 0.5, residual: int = 32
) -> Policy:
    """Pairs of deep layers share each token's direction (Liu et al. 2024, arXiv 2405.14366).

    The direction lies between those of the two layers on the sphere, and each layer keeps its own length.
    Tokens whose two directions are least alike stay as they came. Prompts are merged, what is decoded is not.
    Nothing is evicted.

    Args:
        budget: 1.0, all tokens.
        t: where between the two directions the shared one lies, 0 to 1; 0.6 as published.
        gamma: tokens stay whose cosine is below the least one plus this share of the range, 0 to 1; 0.05 as
            published.
        start: share of the layers, from the first on, that are not merged; 0.5 as published.
        residual: newest tokens of a prompt that stay as they came.
    """
    return Policy(
        scorer=Recency(),
        budget=budget,
        sinks=0,
        window=0,
        codec=SharedDirectionsCodec(t, gamma, start, residual),
    )
