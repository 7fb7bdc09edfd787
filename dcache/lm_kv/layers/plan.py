"""What an eviction leaves to each row: tokens, and which of them are protected."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from dcache.errors import DcacheWarning
from dcache.lm_kv.layers.shared import Shared
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
