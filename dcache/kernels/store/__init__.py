"""`store`: what a computed step leaves behind, written into memory that is already there."""

from __future__ import annotations

import torch

from dcache.kernels import launch
from dcache.kernels.packed import LARGEST, Packed, Stored
from dcache.kernels.store import reference

__all__ = ["empty", "store"]


def empty(like: torch.Tensor, dtype: torch.dtype | None) -> Stored:
    """Memory for `store`, not yet written.

    Args:
        like: a tensor of the shape, dtype and device of what will be stored.
        dtype: what it is stored in, None for its own; int8 and float8_e4m3fn with a scale per row (`Packed`).
    """
    if dtype in LARGEST:
        return Packed.empty(like, dtype)
    return torch.empty(like.shape, dtype=dtype or like.dtype, device=like.device)


def store(y: torch.Tensor, opened: torch.Tensor | None, out: Stored) -> None:
    """Write `y + opened` into `out`, cast or quantised to what `out` is.

    Args:
        y: what was computed.
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
