"""RotateKV."""

from __future__ import annotations

from dcache.lm_kv.codecs.rotated import RotatedCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import Recency


@preset
def rotatekv(budget: float = 1.0, bits: int = 4, group: int = 64, residual: int = 32) -> Policy:
    """Turn keys and values by a Hadamard matrix, store few bits (after Su et al. 2025, arXiv 2501.16383).

    Nothing is evicted; as `codec=rotatekv(...)` it stores what any other policy keeps. It saves memory: on
    CPUs decoding takes longer, not less.

    Args:
        budget: as in `Policy`; below 1.0 the newest tokens are kept.
        bits: of a number: 2, 3, 4 or 8; 2 as published.
        group: channels of a turned token that share a step.
        residual: newest tokens of a row that stay as they came, at least.
    """
    return Policy(
        scorer=Recency(), budget=budget, sinks=0, window=0, codec=RotatedCodec(bits, group, residual)
    )
