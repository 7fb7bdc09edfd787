"""Kept tokens without gaps before the newest one: their keys are turned towards it, as StreamingLLM does."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dcache.lm_kv.storage.parts import DensePart
from dcache.lm_kv.storage.store import LayerStore


def shifted(store: LayerStore, turn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> DensePart:
    """Everything stored, each run contiguous up to the position before this call's first token.

    Args:
        store: a layer's.
        turn: (keys `[R, 1, n, d]`, int64 `[R, n]`) -> the keys turned by so many positions.
    """
    stored = store.stored()
    rank = stored.valid.long().cumsum(-1) - 1
    # The call's first token stands at `seen`; queries keep the positions that the library gave them.
    first = store.seen[:, None] - stored.valid.sum(-1)
    gap = (first[..., None] + rank - stored.positions).masked_fill(~stored.valid, 0)
    rows, heads, slots, size = stored.keys.shape
    flat = stored.keys.reshape(rows * heads, 1, slots, size)
    keys = turn(flat, gap.reshape(rows * heads, slots))
    return DensePart(keys.view(rows, heads, slots, size), stored.values, stored.valid, stored.bias)
