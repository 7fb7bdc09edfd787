"""`gather_rows` and `scatter_rows`: copy some rows of an axis, or write them back in place.

An axis is given by its dimension: 0 for the batch, 1 for the tokens of (B, N, D), 2 for those of (B, H, N,
D). The dimensions after it are a row, which is copied as bytes, so any dtype is supported. The index is (K,),
the same for all, or has the dimensions before the axis, each of its size or 1, followed by K: (B, K) if the
tokens differ between samples. An entry of -1 names no row: zeros are taken for it, and nothing is written. A
`RowIndex` is an index that was checked before.
"""

from __future__ import annotations

import torch

from dcache.errors import DcacheError
from dcache.kernels import launch
from dcache.kernels.rows import reference
from dcache.kernels.rows.reference import RowIndex, check_range, refuse_twice

__all__ = ["RowIndex", "gather_rows", "scatter_rows"]


def gather_rows(
    x: torch.Tensor, index: torch.Tensor | RowIndex, dim: int = 1, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Take rows: `out[b, k] = x[b, index[b, k]]` for dim 1.

    Args:
        x: (..., N, ...) with N at `dim`; any strides.
        index: int64 or int32, (K,) or (..., K); from -1 to N - 1, in any order, as often as wanted; -1 gives
            zeros.
        dim: the axis; from 0.
        out: where to write, x's shape with K in place of N; it must not overlap x. None: a new tensor.

    Raises:
        DcacheError: shapes or dtypes do not fit; on a CPU also if an index is out of range. On a GPU this
            check would need a sync, so the kernel writes zeros for such a row instead.
    """
    entries = _fitting(x, index, dim)
    shape = (*x.shape[:dim], entries.shape[-1], *x.shape[dim + 1 :])
    if out is None:
        out = x.new_empty(shape)
    _check(out, shape, x.dtype, "out")
    if out.numel():
        _move(x, entries, out, dim, scatter=False)
    return out


def scatter_rows(
    out: torch.Tensor, index: torch.Tensor | RowIndex, rows: torch.Tensor, dim: int = 1
) -> torch.Tensor:
    """Write rows in place: `out[b, index[b, k]] = rows[b, k]` for dim 1; the inverse of `gather_rows`.

    Args:
        out: (..., N, ...) with N at `dim`; any strides, but no two elements in one place.
        index: as for `gather_rows`, but without duplicates, whose result would be undefined; what belongs to
            -1 is not written.
        rows: out's shape and dtype with K in place of N; any strides.
        dim: the axis; from 0.

    Returns:
        `out`.

    Raises:
        DcacheError: as `gather_rows`, and on a CPU also if a row is written twice. The kernel ignores indices
            that are out of range.
    """
    entries = _fitting(out, index, dim)
    _check(rows, (*out.shape[:dim], entries.shape[-1], *out.shape[dim + 1 :]), out.dtype, "rows")
    if not rows.numel():
        return out
    if isinstance(index, RowIndex):
        if index.index.ndim == dim + 1 and out.is_contiguous() and not launch.possible(out.device):
            reference.scatter_prepared(out.detach(), index, rows.detach(), dim)
            return out
    elif entries.is_cpu:
        refuse_twice(entries, out.shape[dim])
    _move(out, entries, rows, dim, scatter=True)
    return out


def _move(many: torch.Tensor, index: torch.Tensor, few: torch.Tensor, dim: int, *, scatter: bool) -> None:
    """Copy rows between `many`, which has N, and `few`, which has K."""
    many, few = many.detach(), few.detach()
    if launch.possible(many.device) and launch.taken("scatter_rows" if scatter else "gather_rows", many, few):
        from dcache.kernels.rows import triton

        if triton.move(many, index, few, dim, scatter):
            return
    if scatter:
        reference.scatter_rows(many, index, few, dim)
    else:
        reference.gather_rows(many, index, few, dim)


def _fitting(x: torch.Tensor, given: torch.Tensor | RowIndex, dim: int) -> torch.Tensor:
    """The checked index, expanded to the dimensions before the axis unless it is (K,)."""
    index = given.index if isinstance(given, RowIndex) else given
    if not 0 <= dim < x.ndim:
        raise DcacheError(f"rows: dim names a dimension of {tuple(x.shape)}, 0 to {x.ndim - 1}, got {dim}")
    if index.dtype not in (torch.int64, torch.int32) or index.device != x.device:
        raise DcacheError(
            f"rows: an index is int64 or int32 on {x.device}, got {index.dtype} on {index.device}"
        )
    lead = x.shape[:dim]
    fits = all(size in (1, wanted) for size, wanted in zip(index.shape[:-1], lead, strict=False))
    if index.ndim != 1 and (index.ndim != dim + 1 or not fits):
        raise DcacheError(
            f"rows: for dim {dim} of {tuple(x.shape)} an index is (K,) or {(*lead, 'K')}, got "
            f"{tuple(index.shape)}"
        )
    if isinstance(given, RowIndex):
        if x.shape[dim] != given.N:
            raise DcacheError(f"rows: this RowIndex is for {given.N} rows, got {x.shape[dim]}")
    elif index.is_cpu and index.numel():
        check_range(index, x.shape[dim])
    return index if index.ndim == 1 else index.expand(*lead, -1)


def _check(given: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, name: str) -> None:
    if given.shape != shape or given.dtype != dtype:
        came = f"{tuple(given.shape)} in {given.dtype}"
        raise DcacheError(f"rows: {name} must be {tuple(shape)} in {dtype}, got {came}")
