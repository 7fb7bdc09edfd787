"""Bytes that an anchor will take before it is there."""

from __future__ import annotations

import torch

from dcache.cache.history import History
from dcache.kernels.packed import LARGEST, groups


def bytes_of_like(history: History, store: torch.dtype | None) -> int:
    """Bytes of one anchor of a history, kept in `store`."""
    return sum(bytes_in(*one, store) for one in history.like if one is not None)


def bytes_in(shape: torch.Size, own: torch.dtype, store: torch.dtype | None) -> int:
    """Bytes of a tensor of this shape and dtype, kept in `store` (its own dtype if None)."""
    if store is None or not own.is_floating_point:
        return shape.numel() * own.itemsize
    return shape.numel() * store.itemsize + (4 * groups(shape) if store in LARGEST else 0)
