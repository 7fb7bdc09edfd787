"""`pack` and `unpack`: tokens of few bits a number; of 2, 3, 4 or 8, each within half a step of what it was.

With 1 bit a number becomes -m or m, with 1.6 bits -m, 0 or m, the nearest: m is its group's mean size.

A step belongs to a group: some channels of one token, or some tokens of one run in one channel. Keys of
language models have channels of very different sizes, so theirs are grouped per channel.
"""

from __future__ import annotations

import torch

from dcache.errors import DcacheError
from dcache.kernels import launch
from dcache.kernels.lowbit import reference
from dcache.kernels.lowbit.format import BITS, SYMMETRIC, TERNARY, LowBit, join, row_bytes

__all__ = ["BITS", "SYMMETRIC", "TERNARY", "LowBit", "join", "pack", "row_bytes", "unpack"]


def pack(x: torch.Tensor, bits: float, group: int, lengths: torch.Tensor | None = None) -> LowBit:
    """Quantise tokens; float16 holds a step and a low for each group, a step alone for 1 and 1.6 bits.

    Args:
        x: `[N, D]`, floating point.
        bits: 1, 1.6, 2, 3, 4 or 8.
        group: channels of a token, or tokens of a run, that share a step.
        lengths: int64, tokens of each run, in order; they sum to N. Given: groups per channel. None: groups
            per token.

    Raises:
        DcacheError: `bits`, `group`, the shape or the dtype is another one.
    """
    _check(x, bits, group)
    x = x.detach()
    lengths = None if lengths is None else lengths.flatten()
    if launch.possible(x.device) and launch.taken("pack", x):
        from dcache.kernels.lowbit import triton

        if bits in SYMMETRIC:
            return triton.pack_symmetric(x, bits, group, lengths)
        if lengths is None and triton.packs_tokens(x, group):
            return triton.pack_tokens(x, bits, group)
        if lengths is not None and triton.packs_channels(x, group):
            return triton.pack_channels(x, bits, group, lengths)
    if bits in SYMMETRIC:
        return reference.pack_symmetric(x, bits, group, lengths)
    if lengths is None:
        return reference.pack_tokens(x, bits, group)
    return reference.pack_channels(x, bits, group, lengths)


def unpack(packed: LowBit) -> torch.Tensor:
    """The tensor `[N, D]` in its dtype, new."""
    if launch.possible(packed.codes.device) and packed.dtype in launch.DTYPES and packed.codes.numel():
        from dcache.kernels.lowbit import triton

        return triton.unpack(packed)
    return reference.unpack(packed)


def _check(x: torch.Tensor, bits: float, group: int) -> None:
    if bits not in (*SYMMETRIC, *BITS):
        raise DcacheError(f"bits must be one of {', '.join(map(str, (*SYMMETRIC, *BITS)))}, got {bits!r}")
    if not isinstance(group, int) or group < 1:
        raise DcacheError(f"group must be a whole number of at least 1, got {group!r}")
    if x.ndim != 2 or not x.is_floating_point():
        raise DcacheError(f"pack: expected floating point of shape [N, D], got {tuple(x.shape)} in {x.dtype}")
