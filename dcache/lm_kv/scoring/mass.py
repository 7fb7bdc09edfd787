"""How much of a layer's attention lies on tokens that matter more than a given one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dcache.lm_kv.scoring.by_position import layer_mean
from dcache.lm_kv.scoring.scorers import Context, ReceivedSum
from dcache.lm_kv.storage.stored import Stored


@dataclass(frozen=True)
class MassBefore:
    """PrefixKV: minus the share of a layer's attention that more attended tokens received.

    Under the allocation "global" with no floor the budget is one threshold of that share for all layers, so
    that each keeps as many of its most attended tokens as reach it.
    """

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """-sum_{j before k, descending} s_j / sum_j s_j; s is the mean over all heads; float64."""
        # The sum is the number of queries: of a long text's float32 would lose what little tokens add.
        received = layer_mean(ReceivedSum().score(stored, context), stored).double()
        order = received.masked_fill(~stored.valid, -1.0).argsort(dim=-1, descending=True, stable=True)
        sorted_ = received.gather(-1, order)
        before = (sorted_.cumsum(-1) - sorted_) / sorted_.sum(-1, keepdim=True).clamp_min(1e-12)
        return -torch.zeros_like(received).scatter(-1, order, before)
