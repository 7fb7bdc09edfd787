"""Launching the kernels of `store`: whether they support the tensors, and their arguments."""

from __future__ import annotations

import torch

from dcache.kernels import launch
from dcache.kernels.packed import LARGEST, Packed, Stored
from dcache.kernels.store.reference import TINY
from dcache.kernels.store.triton import cast_kernel, pack_kernel

BLOCK = 1024
# Elements that one quantising program processes at a time: several rows, or a part of one row.
_TILE = 4096
_INPUTS = (torch.float32, torch.bfloat16, torch.float16)


def fits(y: torch.Tensor, opened: torch.Tensor | None, out: Stored) -> bool:
    """True if a kernel supports these tensors, and torch would need more than one pass over them."""
    if y.shape != out.shape or (opened is not None and opened.shape != y.shape):
        return False
    if y.dtype not in _INPUTS or (opened is not None and opened.dtype not in _INPUTS):
        return False
    if isinstance(out, Packed):
        return launch.taken("store", y, opened, *out.tensors())
    one_pass = opened is None or y.dtype == opened.dtype == out.dtype
    return (
        not one_pass
        and out.dtype in _INPUTS
        and out.is_contiguous()
        and launch.taken("store", y, opened, out)
    )


def run(y: torch.Tensor, opened: torch.Tensor | None, out: Stored) -> None:
    """Write `out` in one launch. Inputs that are not contiguous are copied first."""
    y = y.contiguous()
    opened = None if opened is None else opened.contiguous()
    with launch.on_device(y.device):
        if isinstance(out, Packed):
            _pack(y, opened, out)
        else:
            cast_kernel[(-(-y.numel() // BLOCK),)](out, y, opened, y.numel(), BLOCK=BLOCK)


def _pack(y: torch.Tensor, opened: torch.Tensor | None, out: Packed) -> None:
    count = out.scale.numel()
    row = y.numel() // count
    columns = min(1 << (row - 1).bit_length(), _TILE)
    rows = _TILE // columns
    # Without fp fusion, because fused operations round once where the reference rounds twice.
    pack_kernel[(-(-count // rows),)](
        out.data, out.scale, y, opened, count,
        ROW=row, LARGEST=LARGEST[out.data.dtype], TINY=TINY, R=rows, C=columns, enable_fp_fusion=False,
    )  # fmt: skip
