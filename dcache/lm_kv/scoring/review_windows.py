"""WindowKV: neighbours are kept or lost together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dcache.lm_kv.scoring.by_position import from_grid, on_grid
from dcache.lm_kv.scoring.scorers import Context, older_than_window
from dcache.lm_kv.scoring.window_columns import window_columns
from dcache.lm_kv.storage.stored import Stored


@dataclass(frozen=True)
class WindowsOfTokens:
    """WindowKV: the mean of the `best` most attended tokens of a window of neighbours, for all of them.

    It reads the last queries, so the policy's observer must be `QueryWindow`; their own tokens count for 0.

    Args:
        size: tokens of a window; the first begins at a row's first true token.
        best: tokens that count, from 1 (one hit is enough) to `size` (all must be attended to).
    """

    size: int
    best: int
    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """Mean of the `best` largest t_j of the window, t_j = sum_q A[q, j]."""
        sums, _, _ = window_columns(stored, context.state, context.logits)
        grid = on_grid(sums * older_than_window(stored, context), stored, self.size)
        best = grid.unflatten(-1, (-1, self.size)).topk(self.best, -1).values.mean(-1)
        return from_grid(best.repeat_interleave(self.size, -1), stored)
