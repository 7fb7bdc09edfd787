"""FreeCache."""

from __future__ import annotations

from dcache.diffusion_lm.block_rows import BlockRows
from dcache.diffusion_lm.method import RowPolicy
from dcache.diffusion_lm.registry import preset


@preset
def freecache(block: int | None = None) -> RowPolicy:
    """FreeCache: keys and values of the prompt and of finished blocks stay (FlashDLM, arXiv 2505.21467).

    As published (`delay=0`) the tokens that a block decodes last keep what they had as masks.

    Args:
        block: tokens of a block; None for the decoder's or the pipeline's.
    """
    return BlockRows(block, later=True, again=False)
