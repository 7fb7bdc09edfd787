"""Frozen blocks, for block-causal models."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dcache.diffusion_lm.method import RowPolicy
from dcache.diffusion_lm.registry import preset
from dcache.diffusion_lm.step import Step


@dataclass(frozen=True)
class Frozen(RowPolicy):
    """Rows of the current block; when it begins, also those of the whole block before it."""

    block: int | None = None

    def rows(self, step: Step) -> torch.Tensor:
        """The block's, and the finished one's once, widened to whole blocks of the model's mask."""
        size = step.model_block or 1
        first = step.previous if step.in_block == 0 else step.start
        return step.between(first // size * size, -(-step.end // size) * size)


@preset
def frozen(block: int | None = None) -> RowPolicy:
    """Finished blocks are computed once more and then stay: exact where attention is block-causal.

    All rows of a finished block are computed when the next one begins, for they were computed while its last
    tokens were masked.

    Args:
        block: tokens of a block; None for the decoder's or the pipeline's.
    """
    return Frozen(block)
