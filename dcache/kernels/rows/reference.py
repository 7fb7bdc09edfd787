"""`gather_rows` and `scatter_rows` in plain torch: the specification, which also runs on CPUs; `RowIndex`."""

from __future__ import annotations

from functools import cached_property

import torch

from dcache.errors import DcacheError


class RowIndex:
    """Rows of an axis with N, checked when it is made; -1 means no row.

    `gather_rows` and `scatter_rows` take it in place of a tensor and check nothing again: on a CPU that costs
    several times the copy.

    Args:
        index: int64 or int32, (K,) or (..., K); from -1 to N - 1, no row twice.
        N: size of the axis.
        trusted: the caller knows that it is right.

    Attributes:
        index: the index.
        N: size of the axis.

    Raises:
        DcacheError: it is no index; on a CPU also if an entry is out of range or a row is named twice. On a
            GPU this check would need a sync.
    """

    def __init__(self, index: torch.Tensor, N: int, trusted: bool = False) -> None:
        if index.dtype not in (torch.int64, torch.int32) or index.ndim == 0:
            raise DcacheError(f"rows: an index is int64 or int32, (K,) or (..., K), got {index.dtype}")
        self.index, self.N = index, N
        if index.is_cpu and index.numel() and not trusted:
            check_range(index, N)
            refuse_twice(index, N)

    @cached_property
    def targets(self) -> torch.Tensor:
        """Flat rows that are named, int64 `[n]`, where all dimensions up to the axis are one."""
        flat = flattened(self.index, self.N)
        return flat if self.sources is None else flat[self.sources]

    @cached_property
    def sources(self) -> torch.Tensor | None:
        """Flat entries of the index that name a row, int64 `[n]`; None where all do."""
        named = self.index.flatten() >= 0
        return None if bool(named.all()) else named.nonzero().flatten()


def flattened(index: torch.Tensor, N: int) -> torch.Tensor:
    """Indices of the rows when all leading dimensions are flattened into one."""
    lead = index.shape[:-1]
    first = torch.arange(0, lead.numel() * N, N, device=index.device).view(*lead, 1)
    return (index + first).flatten()


def check_range(index: torch.Tensor, N: int) -> None:
    """Refuse entries below -1, or from N on.

    Raises:
        DcacheError: there is one.
    """
    low, high = (int(end) for end in index.aminmax())
    if low < -1 or high >= N:
        raise DcacheError(f"rows: there are {N} rows, got indices from {low} to {high}; -1 means no row")


def refuse_twice(index: torch.Tensor, N: int) -> None:
    """Refuse an index that names a row twice.

    Raises:
        DcacheError: it does.
    """
    # Column N takes what names no row.
    named = torch.where(index < 0, N, index).long()
    written = torch.zeros(*index.shape[:-1], N + 1, dtype=torch.bool)
    written.scatter_(-1, named, True)
    if int(written[..., :N].sum()) < int((index >= 0).sum()):
        raise DcacheError("rows: an index that is written to names a row twice")


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
