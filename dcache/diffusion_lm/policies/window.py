"""A decode window at the left."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dcache.diffusion_lm.method import RowPolicy
from dcache.diffusion_lm.registry import preset
from dcache.diffusion_lm.step import Step


@dataclass(frozen=True)
class Window(RowPolicy):
    """Rows of the decode window."""

    window: int = 16
    needs = "a decode window"

    def rows(self, step: Step) -> torch.Tensor:
        """The leftmost masked positions of the block."""
        return step.leftmost(self.window)


@preset
def window(window: int = 16) -> RowPolicy:
    """Compute and decode the leftmost masked positions alone: Elastic-Cache without its refresh.

    Args:
        window: masked positions, clipped to the block.
    """
    return Window(window)
