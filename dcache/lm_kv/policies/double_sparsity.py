"""Double Sparsity."""

from __future__ import annotations

from dcache.lm_kv.observers import QueryWindow
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scorers import Recency
from dcache.lm_kv.selectors import LabelChannels
from dcache.util.checks import check_whole

# Queries from which channels are chosen.
QUERIES = 64


@preset
def double_sparsity(
    budget: float | None = None, channels: int = 16, sinks: int = 0, window: float = 16, every: int = 32
) -> Policy:
    """Keep all tokens, read those that matter by a few channels (Yang et al. 2024, arXiv 2408.07092).

    A token's score is its dot product with the query over the channels that matter most to the head, chosen
    in every text. It saves reads, not bytes.

    Args:
        budget: tokens that a KV head reads at a step.
        channels: how many are looked at; at least 1.
        sinks: first tokens that are always read.
        window: newest tokens that are always read.
        every: decoded tokens between two indexings; until then new tokens are always read.
    """
    check_whole("channels", channels, 1)
    return Policy(
        scorer=Recency(),
        observer=QueryWindow(QUERIES),
        selector=LabelChannels(channels),
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
    )
