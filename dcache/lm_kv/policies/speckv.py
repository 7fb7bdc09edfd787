"""SpecKV."""

from __future__ import annotations

from typing import Any

from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.lookahead import Draft, Lookahead, greedy
from dcache.lm_kv.scoring.scorers import Reconstruction
from dcache.util.checks import check_whole


@preset
def speckv(
    budget: float | None = None,
    draft: Draft | Any = None,
    tokens: int = 32,
    window: float = 32,
    sinks: int = 0,
    allocation: Allocation = "uniform",
    every: int = 0,
) -> Policy:
    """Keep what a draft's next tokens attend to (Galim et al. 2025, arXiv 2506.08373).

    Score: the largest attention that a token receives while what the draft wrote is read behind the cache; it
    is not stored. It holds the full cache until then.

    Args:
        budget: as in `Policy`.
        draft: a small language model of the same tokens, or a function (ids `[T]`, n) -> ids `[n]`; None
            repeats what followed the last tokens when they came before.
        tokens: that it writes; at least 1.
        window: newest tokens kept.
        sinks: first tokens kept beside the score.
        allocation: as in `Policy`.
        every: decoded tokens between evictions; 0 evicts after prompts alone, as published.
    """
    check_whole("tokens", tokens, 1)
    write = greedy(draft) if hasattr(draft, "generate") else draft
    return Policy(
        scorer=Reconstruction(),
        reader=Lookahead(write, tokens),
        budget=budget,
        sinks=sinks,
        window=window,
        allocation=allocation,
        every=every,
    )
