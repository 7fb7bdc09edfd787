"""KVCrush."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.signatures import ANCHORS, Representatives
from dcache.util.checks import check_whole, is_number


@preset
def kvcrush(
    budget: float | None = None,
    window: int = 32,
    share: float = 0.5,
    anchor: str = "alternating",
    every: int = 0,
) -> Policy:
    """Keep what is attended to, and representatives of the rest (Jha et al. 2025, arXiv 2503.00022).

    A token's signature has a bit for each query head: whether the head would keep it. Tokens that are not
    kept for their attention are sorted by the Hamming distance of their signatures to an anchor, and every
    n-th of them is kept.

    Args:
        budget: as in `Policy`.
        window: queries that vote, and newest tokens kept; at least 1.
        share: of the budget beside the window that goes to the most attended tokens, 0 to 1.
        anchor: "alternating", "mean", "ones" or "zeros": the signature that distances are of.
        every: decoded tokens between evictions; 0 evicts after prompts alone.
    """
    check_whole("window", window, 1)
    if not is_number(share) or not 0.0 <= share <= 1.0:
        raise DcacheError(f"share must be a number from 0 to 1, got {share!r}")
    if anchor not in ANCHORS:
        raise DcacheError(f"anchor must be one of {', '.join(ANCHORS)}, got {anchor!r}")
    return Policy(
        scorer=Representatives(share, anchor),
        observer=QueryWindow(window),
        budget=budget,
        sinks=0,
        window=window,
        every=every,
    )
