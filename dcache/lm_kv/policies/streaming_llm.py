"""StreamingLLM."""

from __future__ import annotations

from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import Recency


@preset
def streaming_llm(budget: float | None = None, sinks: int = 4, every: int = 32, shift: bool = True) -> Policy:
    """Keep the first tokens and the newest ones (Xiao et al. 2023, arXiv 2309.17453).

    Needs a model with rotary positions where tokens are shifted.

    Args:
        budget: as in `Policy`.
        sinks: first tokens kept; 4 as published.
        every: decoded tokens between evictions; the paper's code evicts after each.
        shift: place kept tokens without gaps before the newest one, as published; False leaves their
            positions.
    """
    return Policy(
        scorer=Recency(),
        budget=budget,
        sinks=sinks,
        window=0,
        every=every,
        positions="shifted" if shift else "original",
    )
