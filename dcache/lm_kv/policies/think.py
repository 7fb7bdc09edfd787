"""ThinK."""

from __future__ import annotations

from dcache.lm_kv.codecs.channels import ChannelCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.scorers import Recency
from dcache.util.checks import check_whole


@preset
def think(
    budget: float = 1.0, ratio: float = 0.4, queries: int = 32, block: int = 32, residual: int = 32
) -> Policy:
    """Drop the channels of keys that the last queries weigh least (Xu et al. 2024, arXiv 2407.21018).

    Nothing is evicted; as `codec=think(...)` it stores what any other policy keeps, and where that policy
    does not observe the last queries, keys alone choose the channels. Values stay as they came.

    Args:
        budget: as in `Policy`; below 1.0 the newest tokens are kept.
        ratio: share of the channels that is dropped, from 0 to below 1; 0.4 as published.
        queries: last ones that choose; at least 1.
        block: tokens of a row that leave the tail together and share channels.
        residual: newest tokens of a row that stay as they came, at least; 32 as published.
    """
    check_whole("queries", queries, 1)
    return Policy(
        scorer=Recency(),
        observer=QueryWindow(queries),
        budget=budget,
        sinks=0,
        window=0,
        codec=ChannelCodec(ratio, block, residual),
    )
