"""`RowIndex`: an index of rows that is checked once and used for many tensors."""

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

    Attributes:
        index: the index.
        N: size of the axis.

    Raises:
        DcacheError: it is no index; on a CPU also if an entry is out of range or a row is named twice. On a
            GPU this check would need a sync.
    """

    def __init__(self, index: torch.Tensor, N: int) -> None:
        if index.dtype not in (torch.int64, torch.int32) or index.ndim == 0:
            raise DcacheError(f"rows: an index is int64 or int32, (K,) or (..., K), got {index.dtype}")
        self.index, self.N = index, N
        if index.is_cpu and index.numel():
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
