"""Fast-dLLM's prefix cache."""

from __future__ import annotations

from dcache.diffusion_lm.block_rows import BlockRows
from dcache.diffusion_lm.method import RowPolicy
from dcache.diffusion_lm.registry import preset


@preset
def prefix(block: int | None = None) -> RowPolicy:
    """Fast-dLLM, prefix cache: rows from the current block on (Wu et al. 2025, arXiv 2505.22618).

    Args:
        block: tokens of a block; None for the decoder's or the pipeline's.
    """
    return BlockRows(block, later=True)
