"""How many tokens a layer needs, by what its own attention looks like; the budget is an upper limit then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from dcache.lm_kv.scoring.by_position import layer_mean, on_grid
from dcache.lm_kv.scoring.scorers import Context, ReceivedMean, ReceivedSum
from dcache.lm_kv.storage.stored import Stored


class Coverage(Protocol):
    """Says how many tokens a layer keeps, for the allocation "coverage"."""

    def of(self, stored: Stored, context: Context) -> torch.Tensor:
        """int64 `[B]`, tokens that each KV head keeps."""


@dataclass(frozen=True)
class AttentionShare:
    """ZipVL: the fewest tokens that together received a share of the layer's attention.

    It reads running sums, so the policy's observer must be `ColumnSums`.

    Args:
        share: above 0, at most 1; 1.0 is all tokens.
    """

    share: float

    def of(self, stored: Stored, context: Context) -> torch.Tensor:
        """The least p with sum of the p largest a_i >= share sum_i a_i; a is the sum over all heads."""
        grid = on_grid(ReceivedSum().score(stored, context), stored).sum(1).double()
        there = on_grid(stored.valid.long(), stored).sum(1) > 0
        count = there.sum(1)
        if self.share == 1.0:
            return count
        reached = grid.sort(dim=1, descending=True).values.cumsum(1)
        # Rounding must not ask for one token more.
        enough = reached >= reached[:, -1:] * self.share * (1 - 1e-9)
        return (enough.long().argmax(1) + 1).minimum(count)


@dataclass(frozen=True)
class ReceivedMeanOfTheLayer:
    """ZipVL: the mean attention that a token received from a query that sees it, the mean over all heads."""

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """The same for all heads that hold the token."""
        return layer_mean(ReceivedMean().score(stored, context), stored)
