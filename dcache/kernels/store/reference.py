"""`store` in plain torch: the specification of the kernels, which also runs on CPUs."""

from __future__ import annotations

import torch

from dcache.kernels import launch
from dcache.kernels.packed import LARGEST, Packed, Stored

# Rows of smaller numbers are stored as zeros, because the inverse of their scale would overflow.
TINY = 2.0**-116


def store(y: torch.Tensor, opened: torch.Tensor | None, out: Stored) -> None:
    """Write `y + opened` into `out`; see `dcache.kernels.store`."""
    if isinstance(out, Packed):
        _pack(y, opened, out)
    elif opened is None:
        out.copy_(y)
    elif out.dtype == opened.dtype == y.dtype:
        torch.add(opened, y, out=out)
    else:
        # The difference is rounded to the input's dtype before the cast to the store dtype.
        out.copy_((opened + y).to(opened.dtype))


def _pack(y: torch.Tensor, opened: torch.Tensor | None, out: Packed) -> None:
    """Quantise in blocks of rows that stay in a CPU's cache."""
    if not y.numel():
        out.scale.zero_()
        return
    rows = out.by_row(y.contiguous())
    inputs = None if opened is None else out.by_row(opened.contiguous())
    step = max(launch.cpu_block() // rows.shape[1], 1)
    for i in range(0, rows.shape[0], step):
        block = slice(i, i + step)
        z = rows[block].to(torch.float32)
        if inputs is not None:
            z = z + inputs[block].to(torch.float32)
        _pack_rows(z, out.by_row(out.data)[block], out.scale[block])


def _pack_rows(z: torch.Tensor, data: torch.Tensor, scale: torch.Tensor) -> None:
    """(rows, row): scale = max|z| / largest, data = z / scale rounded to nearest even."""
    top = z.abs().amax(dim=1)
    torch.div(top, LARGEST[data.dtype], out=scale)
    scale.masked_fill_(top < TINY, 0.0).masked_fill_(~top.isfinite(), torch.nan)
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    # Rows whose scale is NaN may contain NaN; their data does not matter.
    whole = z * inverse[:, None]
    data.copy_(whole.round_() if data.dtype == torch.int8 else whole)
