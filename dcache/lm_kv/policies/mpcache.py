"""MPCache."""

from __future__ import annotations

from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.scorers import WindowAttention
from dcache.lm_kv.scoring.selectors import PageBounds
from dcache.util.checks import check_whole


@preset
def mpcache(
    budget: float | None = None,
    held: float = 0.75,
    page: int = 16,
    queries: int = 16,
    sinks: int = 0,
    window: float = 16,
    every: int = 32,
) -> Policy:
    """Drop what the last queries ignore, read pages of the rest (after Zeng et al. 2025, arXiv 2501.06807).

    Tokens are kept by the mean attention of the last queries. Of the kept ones a step reads the pages whose
    upper bound of dot products with the query is highest.

    Args:
        budget: tokens that a KV head reads at a step.
        held: tokens that are kept, a share or a number as `budget`; at least as many as are read.
        page: tokens of a page; at least 1.
        queries: last ones that vote; at least 1.
        sinks: first tokens that are kept and always read.
        window: newest tokens that are kept and always read.
        every: decoded tokens between two indexings; until then new tokens are always read.
    """
    check_whole("page", page, 1)
    check_whole("queries", queries, 1)
    return Policy(
        scorer=WindowAttention(),
        observer=QueryWindow(queries),
        selector=PageBounds(page),
        held=held,
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
    )
