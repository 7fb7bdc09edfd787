"""A2ATS."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.host import HostCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.codebook import Codebook
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.scorers import Recency
from dcache.util.checks import check_whole

# More do not fit the codes' dtype.
MOST = 2**15


@preset
def a2ats(
    budget: float | None = None,
    codes: int = 256,
    distance: int = 256,
    queries: int = 64,
    sinks: int = 4,
    window: float = 64,
    every: int = 32,
) -> Policy:
    """All on the host, tokens chosen by codewords of their keys (after He et al. 2025, arXiv 2502.12665).

    A token's score is the dot product of the query with the codeword of its key, both as if the token were
    `distance` before the query (windowed rotary positions). Codewords are near in what the last queries see.

    Args:
        budget: tokens that a KV head reads at a step.
        codes: codewords of a head, from 1 to 32768.
        distance: at which old tokens are looked at; at least 0.
        queries: last ones that say which errors matter; at least 1.
        sinks: first tokens that are always read.
        window: newest tokens that are always read.
        every: decoded tokens between two indexings; until then new tokens are always read.
    """
    check_whole("codes", codes, 1)
    check_whole("distance", distance, 0)
    check_whole("queries", queries, 1)
    if codes > MOST:
        raise DcacheError(f"codes must be a whole number from 1 to {MOST}, got {codes}")
    return Policy(
        scorer=Recency(),
        observer=QueryWindow(queries),
        selector=Codebook(codes, distance),
        codec=HostCodec(),
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
    )
