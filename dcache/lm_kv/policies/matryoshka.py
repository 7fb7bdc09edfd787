"""MatryoshkaKV without training."""

from __future__ import annotations

from dcache.lm_kv.codecs.on_bases import BasisCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import Recency


@preset
def matryoshka(budget: float = 1.0, share: float = 0.5, residual: int = 32) -> Policy:
    """Keys and values by their heads' principal directions (after Lin et al. 2024, arXiv 2410.14731).

    Nothing is evicted; as `codec=matryoshka(...)` it stores what any other policy keeps. Directions are those
    of random tokens, measured when a model's first cache is made.

    Args:
        budget: as in `Policy`; below 1.0 the newest tokens are kept.
        share: of all directions of keys and values, those that are stored; heads have as many as they need,
            at least a quarter.
        residual: newest tokens of a row that stay as they came, at least.
    """
    codec = BasisCodec(share, residual)
    return Policy(scorer=Recency(), budget=budget, sinks=0, window=0, codec=codec)
