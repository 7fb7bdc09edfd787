"""Quest."""

from __future__ import annotations

from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import Recency
from dcache.lm_kv.scoring.selectors import PageBounds
from dcache.util.checks import check_whole


@preset
def quest(
    budget: float | None = None, page: int = 16, sinks: int = 0, window: float = 16, every: int = 32
) -> Policy:
    """Keep all tokens, read the pages that may matter to the query (Tang et al. 2024, arXiv 2406.10774).

    A page's score is the upper bound of its dot products with the query. It saves reads, not bytes.

    Args:
        budget: tokens that a KV head reads at a step.
        page: tokens of a page; at least 1.
        sinks: first tokens that are always read.
        window: newest tokens that are always read.
        every: decoded tokens between two indexings; until then new tokens are always read.
    """
    check_whole("page", page, 1)
    return Policy(
        scorer=Recency(),
        selector=PageBounds(page),
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
    )
