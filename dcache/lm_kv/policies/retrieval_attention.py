"""RetrievalAttention."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.host import HostCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.nearest_keys import EveryKey, KeyGraph, library
from dcache.lm_kv.scoring.scorers import Recency
from dcache.util.checks import check_whole


@preset
def retrieval_attention(
    budget: float | None = None,
    search: str = "exact",
    edges: int = 32,
    effort: int = 128,
    sinks: int = 4,
    window: float = 64,
    every: int = 32,
) -> Policy:
    """All on the host, the largest dot products found by a graph (after Liu et al. 2024, arXiv 2409.10516).

    First and newest tokens are always read; with them those whose keys have the largest dot products with the
    query, found exactly or by a walk over faiss's graph of the keys (the extra `ann`).

    Args:
        budget: tokens that a KV head reads at a step.
        search: "exact" or "hnsw".
        edges: of a key in the graph; at least 2.
        effort: keys that a walk remembers, at least; at least 1.
        sinks: first tokens that are always read.
        window: newest tokens that are always read.
        every: decoded tokens between two indexings; until then new tokens are always read.

    Raises:
        DcacheError: an option is outside its range, or "hnsw" lacks the package.
    """
    check_whole("edges", edges, 2)
    check_whole("effort", effort, 1)
    if search not in {"exact", "hnsw"}:
        raise DcacheError(f"search must be 'exact' or 'hnsw', got {search!r}")
    if search == "hnsw":
        library()
    return Policy(
        scorer=Recency(),
        selector=EveryKey() if search == "exact" else KeyGraph(edges, effort),
        codec=HostCodec(),
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
    )
