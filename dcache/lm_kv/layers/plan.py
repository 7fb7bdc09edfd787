"""What an eviction leaves to each row: tokens, and which of them are protected."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from dcache.errors import DcacheWarning
from dcache.lm_kv.layers.shared import Shared
from dcache.lm_kv.storage.store import LayerStore
from dcache.util.checks import is_whole


@dataclass(frozen=True)
class Plan:
    """Tokens of each row.

    Attributes:
        tokens: that a KV head keeps, the mean over heads and layers.
        sinks: first ones that are always kept.
        window: newest ones that are always kept; sinks and window are at most half of `tokens`.
    """

    tokens: list[int]
    sinks: list[int]
    window: list[int]


def plan_rows(shared: Shared, seen: Sequence[int], tokens: list[int] | None = None) -> Plan:
    """Each row's budget, or these tokens; sinks and window shrink to half of it, which is said once."""
    policy = shared.policy
    tokens = shared.budget.tokens(seen) if tokens is None else tokens
    sinks = [min(policy.sinks, n // 2) for n in tokens]
    whole = is_whole(policy.window)
    requested = [int(policy.window) if whole else math.floor(n * policy.window + 1e-9) for n in tokens]
    window = [min(w, n // 2 - s) for w, n, s in zip(requested, tokens, sinks, strict=True)]
    rows = zip(tokens, sinks, window, requested, seen, strict=True)
    short = [(n, s, w) for n, s, w, r, all_ in rows if n < all_ and (s < policy.sinks or (whole and w < r))]
    if short and not shared.warned:
        shared.warned = True
        budget, fewer_sinks, smaller_window = min(short)
        warnings.warn(
            f"sinks={policy.sinks} and window={policy.window} take more than half of a budget of {budget} "
            f"token{'s' if budget > 1 else ''}; they shrink to {fewer_sinks} and {smaller_window}",
            DcacheWarning,
            stacklevel=2,
        )
    return Plan(tokens, sinks, window)


def least(shared: Shared, tokens: int, protected: int) -> int:
    """Tokens that every layer keeps at least."""
    return max(1, protected, math.floor(tokens * shared.policy.floor + 1e-9))


def warn_of_pages(shared: Shared, tokens: Sequence[int], store: LayerStore) -> None:
    """Say once that a selector's pages are so long that a decoded token reads none of them.

    Args:
        shared: of a policy with a selector.
        tokens: budget of each row.
        store: a layer's, which was just indexed.
    """
    policy, (pages, *others) = shared.policy, store.segments
    if policy.selector is None or shared.warned_of_pages or "sizes" in (pages.index or {}):
        return
    page = policy.selector.page
    # A decoded token is one of the newest itself; a question chooses before its own tokens are stored.
    new = 0 if policy.question is not None else 1
    newest = store.tail.valid.sum(1) + sum(segment.lengths[:, 0] for segment in others) + new
    facts = [x.tolist() for x in (store.seen, newest, pages.lengths.amax(1))]
    rows = [
        (n, max(0, n - near), min(page, older))
        for n, seen, near, older in zip(tokens, *facts, strict=True)
        if n < seen
    ]
    short = [(n, left) for n, left, size in rows if left < size]
    if not short:
        return
    shared.warned_of_pages = True
    budget, left = min(short)
    needed = page + max(new, policy.every)
    whole = is_whole(policy.window)
    needed = needed + int(policy.window) if whole else math.ceil(needed / (1 - policy.window) - 1e-9)
    smaller = f", or page to at most {left}" if left else ""
    warnings.warn(
        f"of a budget of {budget} token{'s' if budget > 1 else ''} the newest leave {left}, in which no page "
        f"of {page} fits, so that {policy.name} reads the newest alone: set budget to at least {needed} "
        f"tokens{smaller}",
        DcacheWarning,
        stacklevel=2,
    )
