"""Kept tokens without gaps before the newest one: their keys are turned towards it, as StreamingLLM does."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.model.calls import Call
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


def next_offset(store: LayerStore, call: Call, offset: torch.Tensor) -> torch.Tensor:
    """Int64 `[rows]`, the model's position of a token minus its index among the row's true ones.

    Args:
        store: a layer's, before this call.
        call: this call.
        offset: what it was for earlier calls.

    Raises:
        DcacheError: positions jump between two calls.
    """
    first = call.valid.int().argmax(1, keepdim=True)
    new = call.rope.gather(1, first)[:, 0] - store.seen
    started = call.valid.any(1)
    if bool((started & (store.seen > 0) & (new != offset)).any()):
        raise DcacheError(
            "positions must go on without gaps where kept tokens are shifted: pads lie between a row's "
            "tokens, or one call counted columns and another one true tokens. Pass position_ids that count "
            "true tokens in every call, as model.generate does."
        )
    return torch.where(started, new, offset)
