"""TOVA."""

from __future__ import annotations

from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.scorers import LastQueryAttention


@preset
def tova(budget: float | None = None, sinks: int = 0, every: int = 32) -> Policy:
    """Drop what the last token attends to least, in all heads alike (Oren et al. 2024, arXiv 2401.06104).

    Score: mean over all heads of the last query's attention.

    Args:
        budget: as in `Policy`.
        sinks: first tokens kept beside the score.
        every: decoded tokens between evictions; 1 as published.
    """
    return Policy(
        scorer=LastQueryAttention(),
        observer=QueryWindow(1),
        budget=budget,
        sinks=sinks,
        window=1,
        every=every,
    )
