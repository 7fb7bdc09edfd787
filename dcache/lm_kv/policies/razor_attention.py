"""RazorAttention."""

from __future__ import annotations

import os
from dataclasses import replace

from dcache.lm_kv.policies.duo_attention import duo_attention
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.heads import Pattern
from dcache.lm_kv.storage.reducers import Compensate


@preset
def razor_attention(
    budget: float | None = None,
    pattern: Pattern | str | os.PathLike[str] | None = None,
    sinks: int = 4,
    window: float = 0.2,
    every: int = 32,
) -> Policy:
    """Keep retrieval heads whole, one slot for all that others lose (Tang et al. 2024, arXiv 2407.15891).

    The other heads keep their first and newest tokens, and one slot for the rest: its mean key and mean
    value, with the logarithm of their number as a bias.

    Args:
        budget: as in `Policy`; it decides how many heads keep everything.
        pattern: for each layer a number for each KV head, the highest keep everything: trained gates, or what
            `lm_kv.head_pattern(model)` measures; the path of a calibration that has them; None to estimate it
            in every text.
        sinks: first tokens that every head keeps.
        window: newest tokens that every head keeps; a float is a share of the budget.
        every: decoded tokens between evictions.
    """
    duo = duo_attention(budget, pattern, sinks, window, every)
    return replace(duo, reducer=Compensate())
