"""LaCache."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.ladder import Ladder
from dcache.util.checks import check_whole


@preset
def lacache(
    budget: float | None = None,
    span: int | None = None,
    overlap: int = 0,
    sinks: int = 4,
    window: float = 0.25,
    every: int = 32,
    shift: bool = True,
) -> Policy:
    """Keep each token in some layers, other ones in the next (Shi et al. 2025, arXiv 2507.14204).

    Of each rung of neighbours a layer keeps a piece, which moves on with the layers. Old text is thinned out
    first, and again when all of it was. No attention is read.

    Args:
        budget: as in `Policy`.
        span: layers that keep a token; None for half of them, 16 of 32 as published.
        overlap: layers that two neighbours share; below the span.
        sinks: first tokens kept; 4 as published.
        window: newest tokens kept; a float is a share of the budget.
        every: decoded tokens between evictions.
        shift: place kept tokens without gaps before the newest one, as published; False leaves their
            positions.
    """
    if span is not None:
        check_whole("span", span, 1)
    check_whole("overlap", overlap, 0)
    if span is not None and overlap >= span:
        raise DcacheError(f"overlap must be below span={span}, got {overlap}")
    return Policy(
        scorer=Ladder(sinks, span, overlap),
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
        positions="shifted" if shift else "original",
    )
