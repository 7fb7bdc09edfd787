"""The size of an anchor in bytes, from shapes and dtypes alone."""

from __future__ import annotations

import torch

from dcache.cache.history import History
from dcache.kernels.packed import LARGEST, groups


def bytes_of_like(history: History, store: torch.dtype | None) -> int:
    """Bytes of one anchor of a history whose tensors are stored in the dtype `store`."""
    return sum(bytes_in(*leaf, store) for leaf in history.like if leaf is not None)


def bytes_in(shape: torch.Size, dtype: torch.dtype, store: torch.dtype | None) -> int:
    """Bytes of a tensor stored in `store`; None, or a dtype that is not floating-point, keeps its dtype."""
    if store is None or not dtype.is_floating_point:
        return shape.numel() * dtype.itemsize
    return shape.numel() * store.itemsize + (4 * groups(shape) if store in LARGEST else 0)
