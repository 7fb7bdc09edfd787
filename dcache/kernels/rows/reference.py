"""`gather_rows` and `scatter_rows` in plain torch: the specification, which also runs on CPUs."""

from __future__ import annotations

import torch

from dcache.errors import DcacheError


def gather_rows(x: torch.Tensor, index: torch.Tensor, out: torch.Tensor, dim: int) -> None:
    """See `dcache.kernels.gather_rows`; index (K,) or (*x.shape[:dim], K)."""
    x, out = _indexable(x), _indexable(out)
    if index.ndim == 1:
        torch.index_select(x, dim, index, out=out)
    elif x.is_contiguous() and out.is_contiguous():
        flat = _flat(x, index)
        torch.index_select(x.flatten(0, dim), 0, flat, out=out.view(-1, *out.shape[dim + 1 :]))
    else:
        for x_i, index_i, out_i in zip(x, index, out, strict=True):
            gather_rows(x_i, index_i, out_i, dim - 1)


def scatter_rows(out: torch.Tensor, index: torch.Tensor, rows: torch.Tensor, dim: int) -> None:
    """See `dcache.kernels.scatter_rows`; index (K,) or (*out.shape[:dim], K)."""
    if index.is_cpu:
        _refuse_twice(index, out.shape[dim])
    index, out, rows = index.long(), _indexable(out), _indexable(rows)
    if index.ndim == 1:
        out.index_copy_(dim, index, rows)
    elif out.is_contiguous():
        out.view(-1, *out.shape[dim + 1 :]).index_copy_(0, _flat(out, index), rows.flatten(0, dim))
    else:
        for out_i, index_i, rows_i in zip(out, index, rows, strict=True):
            scatter_rows(out_i, index_i, rows_i, dim - 1)


def _indexable(t: torch.Tensor) -> torch.Tensor:
    """The same bytes as int8, since torch does not index all dtypes of one byte."""
    return t.view(torch.int8) if t.itemsize == 1 else t


def _flat(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Indices of the rows when all leading dimensions are flattened into one."""
    lead, N = index.shape[:-1], x.shape[index.ndim - 1]
    first = torch.arange(0, lead.numel() * N, N, device=index.device).view(*lead, 1)
    return (index + first).flatten()


def _refuse_twice(index: torch.Tensor, N: int) -> None:
    written = torch.zeros(*index.shape[:-1], N, dtype=torch.bool)
    written.scatter_(-1, index.long(), True)
    if int(written.sum()) < index.numel():
        raise DcacheError("rows: an index that is written to names a row twice")
