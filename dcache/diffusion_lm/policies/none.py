"""Every row, for comparison."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dcache.diffusion_lm.method import RowPolicy
from dcache.diffusion_lm.registry import preset
from dcache.diffusion_lm.step import Step


@dataclass(frozen=True)
class EveryRow(RowPolicy):
    """All rows at every step."""

    window: int | None = None

    def refresh(self, step: Step) -> str:
        """Always."""
        return "every"

    def rows(self, step: Step) -> torch.Tensor:
        """All."""
        return torch.ones_like(step.masked)


@preset
def none(window: int | None = None) -> RowPolicy:
    """Compute every row: the uncached model, to compare with in the same decode order.

    Args:
        window: restrict the decoder to so many masked positions at the left.
    """
    return EveryRow(window)
