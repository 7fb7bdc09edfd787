"""SentenceKV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import WindowAttention
from dcache.lm_kv.scoring.sentences import Sentences, SentenceWindow, ends_of
from dcache.util.checks import check_odd, check_whole

# Last queries of the prompt that vote, as published.
QUERIES = 32


@preset
def sentencekv(
    budget: float | None = None,
    ends: Sequence[int] | Any | None = None,
    held: float = 0.75,
    longest: int = 32,
    pool: int = 7,
    sinks: int = 4,
    window: float = 32,
    every: int = 32,
) -> Policy:
    """Drop what the prompt's end ignores, read sentences like the current one (Zhu et al. 2025, SentenceKV).

    Tokens are kept by the largest attention of their neighbours from the last 32 queries. A step reads the
    sentences whose mean key has the largest dot products with the mean query of the sentence being written.

    Args:
        budget: tokens that a KV head reads at a step.
        ends: ids of the tokens that end a sentence, or a tokenizer; None where only `longest` ends one.
        held: tokens that are kept, a share or a number as `budget`; at least as many as are read.
        longest: a sentence is cut into pieces of so many tokens; at least 1.
        pool: width of the neighbourhood, odd; 1 where facts are single tokens, 7 as published.
        sinks: first tokens that are kept and always read; 32 as published.
        window: newest tokens that are kept and always read; 32 as published.
        every: decoded tokens between two indexings; until then new tokens are always read.
    """
    check_whole("longest", longest, 1)
    check_odd("pool", pool)
    ids = ends_of(ends)
    return Policy(
        scorer=WindowAttention(pool, largest=True),
        observer=SentenceWindow(QUERIES, ids),
        selector=Sentences(longest),
        parameters={"ends": ids or None},
        held=held,
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
    )
