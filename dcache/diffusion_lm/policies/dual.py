"""Fast-dLLM's dual cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dcache.diffusion_lm.method import RowPolicy
from dcache.diffusion_lm.registry import preset
from dcache.diffusion_lm.step import Step
from dcache.util.checks import check_whole


@dataclass(frozen=True)
class Dual(RowPolicy):
    """Rows of the current block; all rows when a block begins."""

    block: int | None = None

    def refresh(self, step: Step) -> str | None:
        """When a block begins."""
        return "block" if step.in_block == 0 else None

    def rows(self, step: Step) -> torch.Tensor:
        """The block's, decoded ones too."""
        return step.block


@preset
def dual(block: int | None = None) -> RowPolicy:
    """Fast-dLLM, dual cache: rows of the current block (Wu et al. 2025, arXiv 2505.22618).

    Args:
        block: tokens of a block; None for the decoder's or the pipeline's.
    """
    if block is not None:
        check_whole("block", block, 1)
    return Dual(block)
