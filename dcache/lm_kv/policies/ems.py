"""EMS."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.text_sums import GlobalAndLocal, SumsAndWindow
from dcache.lm_kv.storage.nearest import MergeInto
from dcache.util.checks import check_whole, is_number


@preset
def ems(
    budget: float | None = None,
    window: int = 32,
    threshold: float = 0.9,
    sinks: int = 0,
    allocation: Allocation = "heads",
    every: int = 0,
) -> Policy:
    """Keep what matters to all queries or to the last, merge the rest (Li et al. 2024, arXiv 2412.08521).

    Score: the larger of a token's shares of two sums: the mean attention of all queries that see it, and the
    attention of the last ones. It must see all weights.

    Args:
        budget: as in `Policy`.
        window: last queries that count apart, and newest tokens kept; at least 1.
        threshold: cosine of a key with a kept one below which a lost token is dropped; from -1 to 1.
        sinks: first tokens kept beside the score.
        allocation: "heads" of a layer share its budget as published.
        every: decoded tokens between evictions; 0 evicts after prompts alone.
    """
    check_whole("window", window, 1)
    if not is_number(threshold) or not -1.0 <= threshold <= 1.0:
        raise DcacheError(f"threshold must be a number from -1 to 1, got {threshold!r}")
    return Policy(
        scorer=GlobalAndLocal(),
        observer=SumsAndWindow(window),
        reducer=MergeInto("average", threshold),
        budget=budget,
        sinks=sinks,
        window=window,
        allocation=allocation,
        every=every,
    )
