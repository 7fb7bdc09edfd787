"""FreeCache."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dcache.diffusion_lm.method import RowPolicy
from dcache.diffusion_lm.registry import preset
from dcache.diffusion_lm.step import Step
from dcache.util.checks import check_whole


@dataclass(frozen=True)
class FreeCache(RowPolicy):
    """Rows from the current block on, and never again what is before it."""

    block: int | None = None

    def rows(self, step: Step) -> torch.Tensor:
        """The block's and all behind it."""
        return step.between(step.start, step.ids.shape[1])


@preset
def freecache(block: int | None = None) -> RowPolicy:
    """FreeCache: keys and values of the prompt and of finished blocks stay (FlashDLM, arXiv 2505.21467).

    As published (`delay=0`) the tokens that a block decodes last keep what they had as masks.

    Args:
        block: tokens of a block; None for the decoder's or the pipeline's.
    """
    if block is not None:
        check_whole("block", block, 1)
    return FreeCache(block)
