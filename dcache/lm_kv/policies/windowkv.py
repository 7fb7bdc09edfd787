"""WindowKV."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.review_windows import WindowsOfTokens
from dcache.util.checks import check_whole, is_whole


@preset
def windowkv(
    budget: float | None = None,
    window: int = 16,
    review: int = 8,
    best: int | None = None,
    layers: int = 8,
    sinks: int = 0,
    every: int = 0,
) -> Policy:
    """Keep whole windows of neighbours, the same in several layers (Zuo et al. 2025, WindowKV).

    Score of all tokens of a window: the mean attention of the last queries on its most attended tokens.
    Layers of a group keep what its first layer chooses.

    Args:
        budget: as in `Policy`.
        window: queries that vote, and newest tokens kept; at least 1.
        review: tokens of a window of neighbours; at least 1.
        best: tokens of a window that count; None for all of them, where a text is searched for one place;
            fewer where it is summed up.
        layers: of a group; 1 lets every layer choose.
        sinks: first tokens kept beside the score.
        every: decoded tokens between evictions; 0 evicts after prompts alone, as published.
    """
    check_whole("window", window, 1)
    check_whole("review", review, 1)
    if best is not None and (not is_whole(best) or not 1 <= best <= review):
        raise DcacheError(f"best must be a whole number from 1 to review={review}, or None, got {best!r}")
    return Policy(
        scorer=WindowsOfTokens(review, best or review),
        observer=QueryWindow(window),
        budget=budget,
        sinks=sinks,
        window=window,
        layer_group=layers,
        every=every,
    )
