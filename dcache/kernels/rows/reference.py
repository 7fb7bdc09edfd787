"""`gather_rows` and `scatter_rows` in plain torch: the specification, which also runs on CPUs."""

from __future__ import annotations

import torch

from dcache.kernels.rows.index import RowIndex, flattened


def gather_rows(x: torch.Tensor, index: torch.Tensor, out: torch.Tensor, dim: int) -> None:
    """See `dcache.kernels.gather_rows`; index (K,) or (*x.shape[:dim], K)."""
    x, out = _indexable(x), _indexable(out)
    absent = index < 0
    if bool(absent.any()):
        _gather(x, index.clamp(min=0), out, dim)
        out.masked_fill_(absent.view(*absent.shape, *[1] * (out.ndim - 1 - dim)), 0)
    else:
        _gather(x, index, out, dim)


def scatter_rows(out: torch.Tensor, index: torch.Tensor, rows: torch.Tensor, dim: int) -> None:
    """See `dcache.kernels.scatter_rows`; index (K,) or (*out.shape[:dim], K)."""
    index, out, rows = index.long(), _indexable(out), _indexable(rows)
    if index.ndim == 1:
        named = index >= 0
        if not bool(named.all()):
            index, rows = index[named], rows.movedim(dim, 0)[named].movedim(0, dim)
        out.index_copy_(dim, index, rows)
    elif out.is_contiguous():
        scatter_prepared(out, RowIndex(index, out.shape[dim]), rows, dim)
    else:
        for out_i, index_i, rows_i in zip(out, index, rows, strict=True):
            scatter_rows(out_i, index_i, rows_i, dim - 1)


def scatter_prepared(out: torch.Tensor, index: RowIndex, rows: torch.Tensor, dim: int) -> None:
    """Write rows of a checked index with `out`'s leading dimensions into a contiguous `out`."""
    out, rows = _indexable(out), _indexable(rows).flatten(0, dim)
    if index.sources is not None:
        rows = rows.index_select(0, index.sources)
    out.view(-1, *out.shape[dim + 1 :]).index_copy_(0, index.targets, rows)


def _gather(x: torch.Tensor, index: torch.Tensor, out: torch.Tensor, dim: int) -> None:
    if index.ndim == 1:
        torch.index_select(x, dim, index, out=out)
    elif x.is_contiguous() and out.is_contiguous():
        flat = flattened(index, x.shape[dim])
        torch.index_select(x.flatten(0, dim), 0, flat, out=out.view(-1, *out.shape[dim + 1 :]))
    else:
        for x_i, index_i, out_i in zip(x, index, out, strict=True):
            _gather(x_i, index_i, out_i, dim - 1)


def _indexable(t: torch.Tensor) -> torch.Tensor:
    """The same bytes as int8, since torch does not index all dtypes of one byte."""
    return t.view(torch.int8) if t.itemsize == 1 else t
