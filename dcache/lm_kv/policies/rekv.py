"""ReKV."""

from __future__ import annotations

from dcache.lm_kv.codecs.host import HostCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.frames import FrameMeans, LastQuestion
from dcache.lm_kv.scoring.questions import MeanQuery
from dcache.lm_kv.scoring.scorers import Recency
from dcache.util.checks import check_whole


@preset
def rekv(
    budget: float | None = None, page: int = 196, sinks: int = 4, window: float = 0.5, every: int = 0
) -> Policy:
    """Frames of a stream on the host, read for a question (after Di et al. 2025, arXiv 2503.00540).

    A call that brings frames alone (`KVCache.mark`) reads the first tokens and the newest. Any other call of
    several tokens is a question: each layer reads the frames whose mean key is most like the mean of its
    queries, before rotation, and so do the tokens that are decoded after it.

    Args:
        budget: tokens that a KV head reads, beside the call's own.
        page: tokens of a frame; at least 1.
        sinks: first tokens that are always read.
        window: newest tokens that are always read, a number or a share of the budget up to 0.5.
        every: decoded tokens between two indexings, 0 for none: new tokens are always read.
    """
    check_whole("page", page, 1)
    question = MeanQuery()
    return Policy(
        scorer=Recency(),
        observer=LastQuestion(question),
        selector=FrameMeans(page),
        question=question,
        local_frames=True,
        codec=HostCodec(),
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
    )
