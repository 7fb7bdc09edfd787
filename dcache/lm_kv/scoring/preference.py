"""How much of a budget each layer wants, from what its own attention looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from dcache.lm_kv.scoring.scorers import Context, older_than_window
from dcache.lm_kv.scoring.window_scorers import window_moments
from dcache.lm_kv.storage.stored import Stored


class Preference(Protocol):
    """A layer's claim on the budget that all layers share."""

    def of(self, stored: Stored, context: Context) -> torch.Tensor:
        """Float `[rows]`, at least 0; layers get tokens in proportion."""


@dataclass(frozen=True)
class DispersionAndShift:
    """CAKE: layers whose attention is spread out and moves with the queries want more.

    It reads the last queries, so the policy's observer must be `QueryWindow`. Keys of the window itself do
    not count: the causal mask alone would make them vary.

    Args:
        tau1: the larger, the less the entropy counts; above 0.
        tau2: the same for the variance.
    """

    tau1: float = 1.0
    tau2: float = 1.0

    def of(self, stored: Stored, context: Context) -> torch.Tensor:
        """H^(1/tau1) V^(1/tau2); H, the entropy of the mean attention, and V, its variance, of all heads."""
        mean, variance = (moment.double() for moment in window_moments(stored, context))
        older = older_than_window(stored, context)[:, :, None]
        # xlogy is 0 where no attention is.
        entropy = -torch.xlogy(mean, mean).masked_fill(~older, 0.0).sum((1, 2, 3))
        shift = variance.masked_fill(~older, 0.0).sum((1, 2, 3))
        return entropy.clamp_min(0.0) ** (1 / self.tau1) * shift ** (1 / self.tau2)
