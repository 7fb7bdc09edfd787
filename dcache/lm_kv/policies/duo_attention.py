"""DuoAttention."""

from __future__ import annotations

import os

from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.calibration import load
from dcache.lm_kv.scoring.heads import HeadClasses, Pattern
from dcache.lm_kv.scoring.observers import Nothing, QueryWindow

# Queries from which a pattern is estimated.
QUERIES = 64


@preset
def duo_attention(
    budget: float | None = None,
    pattern: Pattern | str | os.PathLike[str] | None = None,
    sinks: int = 64,
    window: float = 256,
    every: int = 32,
) -> Policy:
    """Keep everything in heads that look far back (Xiao et al. 2024, arXiv 2410.10819).

    The other heads keep their first and newest tokens. Heads are chosen among those of all layers.

    Args:
        budget: as in `Policy`; it decides how many heads keep everything.
        pattern: for each layer a number for each KV head, the highest keep everything: trained gates, or what
            `lm_kv.head_pattern(model)` measures; the path of a calibration that has them; None to estimate it
            in every text.
        sinks: first tokens that every head keeps.
        window: newest tokens that every head keeps; a float is a share of the budget.
        every: decoded tokens between evictions.
    """
    path = None
    if isinstance(pattern, str | os.PathLike):
        path, pattern = os.fspath(pattern), load(pattern).pattern
    return Policy(
        scorer=HeadClasses(pattern, sinks),
        observer=QueryWindow(QUERIES) if pattern is None else Nothing(),
        calibration=path,
        parameters={"pattern": pattern},
        budget=budget,
        sinks=sinks,
        window=window,
        allocation="global",
        floor=0.0,
        every=every,
    )
