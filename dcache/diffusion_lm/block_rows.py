"""`BlockRows`: the policies that go by the decoder's blocks alone."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch

from dcache.diffusion_lm.method import RowPolicy
from dcache.diffusion_lm.step import Step


@dataclass(frozen=True)
class BlockRows(RowPolicy):
    """Rows of the current block, decoded ones too.

    Attributes:
        block: tokens of a block; None for the decoder's or the pipeline's.
        later: rows of all later blocks also.
        again: all rows when a block begins; False for those of the first forward alone.
    """

    block: int | None = None
    _: KW_ONLY
    later: bool = False
    again: bool = True

    def refresh(self, step: Step) -> str | None:
        """When a block begins."""
        return "block" if self.again and step.in_block == 0 else None

    def rows(self, step: Step) -> torch.Tensor:
        """The block's, and those behind it."""
        return step.between(step.start, step.ids.shape[1] if self.later else step.end)
