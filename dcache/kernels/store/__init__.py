"""`store`: writes an anchor into existing memory."""

from __future__ import annotations

import torch

from dcache.kernels import launch
from dcache.kernels.packed import LARGEST, Packed, Stored
from dcache.kernels.store import reference

__all__ = ["empty", "store"]


def empty(like: torch.Tensor, dtype: torch.dtype | None) -> Stored:
    """Uninitialised memory for `store`.

    Args:
        like: a tensor of the shape, dtype and device of the tensor to store.
        dtype: store dtype, None for the tensor's own; int8 and float8_e4m3fn with a scale per row (`Packed`).
    """
    if dtype in LARGEST:
        return Packed.empty(like, dtype)
    return torch.empty(like.shape, dtype=dtype or like.dtype, device=like.device)


def store(y: torch.Tensor, opened: torch.Tensor | None, out: Stored) -> None:
    """Write `y + opened` into `out`, cast or quantised to its dtype.

    Args:
        y: the computed output.
        opened: the negated input (for y - x), of `y`'s shape, or None; it may be `out`.
        out: memory of `y`'s shape (see `empty`), contiguous. A difference is rounded to `opened`'s dtype
            before it is cast, and quantised from float32.
    """
    if launch.possible(y.device):
        from dcache.kernels.store import launching

        if launching.fits(y, opened, out):
            launching.run(y, opened, out)
            return
    reference.store(y, opened, out)
