"""ActQKV."""

from __future__ import annotations

from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.preference import InformationDensity
from dcache.lm_kv.scoring.questions import ActivationBias
from dcache.lm_kv.scoring.scorers import Recency
from dcache.lm_kv.scoring.selectors import Landmarks
from dcache.util.checks import check_whole


@preset
def actqkv(
    budget: float | None = None,
    page: int = 16,
    queries: int = 64,
    sinks: int = 0,
    window: float = 16,
    every: int = 32,
) -> Policy:
    """Pages like a call's unusual queries, more in layers that look at many places (after Xiao et al. 2025).

    arXiv 2502.13542. A page's score is the dot product of its mean key with one query: a decoded token's own,
    or of a call of several tokens the sum of its queries weighed by their activation bias. Layers share what
    is read in proportion to the entropy of the last queries' attention. It saves reads, not bytes.

    Args:
        budget: tokens that a KV head reads at a step, the mean over layers.
        page: tokens of a page; at least 1.
        queries: last ones from which a layer's entropy is measured; at least 1.
        sinks: first tokens that are always read.
        window: newest tokens that are always read.
        every: decoded tokens between two indexings; until then new tokens are always read.
    """
    check_whole("page", page, 1)
    check_whole("queries", queries, 1)
    question = ActivationBias()
    return Policy(
        scorer=Recency(),
        observer=QueryWindow(queries),
        selector=Landmarks(page, exact=0),
        question=question,
        allocation="preference",
        preference=InformationDensity(question),
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
    )
