"""TriForce."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import register
from dcache.lm_kv.scoring.scorers import Recency
from dcache.lm_kv.scoring.selectors import Landmarks
from dcache.util.checks import check_whole

if TYPE_CHECKING:
    from dcache.lm_kv.sharing.drafting import SelfDraft


def triforce(budget: float, tokens: int = 6, page: int = 8, window: float = 32, every: int = 32) -> SelfDraft:
    """Draft on the best pages of a model's own cache, verify on all (Sun et al. 2024, arXiv 2404.11912).

    The model itself decodes some tokens and reads of its cache the pages whose mean key has the largest
    products with the query, the first page and the newest tokens (section 4.1 there); one call on the whole
    cache verifies them. Lossless: greedy decoding gives what it gives without.

    Args:
        budget: tokens that a KV head reads at a drafted token: a share of the text's, or a number.
        tokens: drafted at once; at least 1, 6 as published.
        page: tokens of a page; at least 1, 8 as published.
        window: newest tokens that are always read.
        every: decoded tokens between two indexings; until then new tokens are always read.

    Returns:
        What `model.generate(..., custom_generate=)` takes. Its `counts` say how many drafted tokens of the
        last text were accepted.

    Raises:
        DcacheError: an option is outside its range.
    """
    from dcache.lm_kv.sharing.drafting import SelfDraft

    check_whole("tokens", tokens, 1)
    check_whole("page", page, 1)
    selector = Landmarks(page, exact=0)
    policy = Policy(
        "triforce",
        scorer=Recency(),
        selector=selector,
        budget=budget,
        sinks=page,
        window=window,
        every=every,
    )
    return SelfDraft(policy, tokens)


register("sharing", triforce)
