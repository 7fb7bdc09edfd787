"""Numbers of a tensor that stand out, stored as they are beside what is rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Outliers:
    """Some numbers of a tensor `[N, D]`, token by token.

    Attributes:
        counts: uint8 or int16 `[N]`, how many each token has.
        columns: uint8 or int16, their channels, tokens one after the other.
        numbers: the numbers, in the tensor's dtype.
    """

    counts: torch.Tensor
    columns: torch.Tensor
    numbers: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor that is held, by name."""
        return {"counts": self.counts, "columns": self.columns, "numbers": self.numbers}

    def put(self, tokens: torch.Tensor) -> torch.Tensor:
        """Write them into `tokens` `[N, D]`, in place."""
        rows = torch.arange(len(self.counts), device=tokens.device).repeat_interleave(self.counts.long())
        tokens[rows, self.columns.long()] = self.numbers.to(tokens.dtype)
        return tokens

    def take(self, rows: torch.Tensor) -> Outliers:
        """Those of these tokens, in this order."""
        counts = self.counts.long()
        starts, size = counts.cumsum(0) - counts, counts[rows]
        first = (starts[rows] - (size.cumsum(0) - size)).repeat_interleave(size)
        index = first + torch.arange(len(first), device=first.device)
        return Outliers(self.counts[rows], self.columns[index], self.numbers[index])


def outliers_of(tokens: torch.Tensor, mask: torch.Tensor) -> Outliers:
    """The numbers of tokens `[N, D]` at the places in `mask`, bool `[N, D]`."""
    small = torch.uint8 if tokens.shape[1] < 2**8 else torch.int16
    columns = mask.nonzero()[:, 1].to(small)
    return Outliers(mask.sum(1).to(small), columns, tokens[mask])


def join(parts: Sequence[Outliers]) -> Outliers:
    """Those of several tensors, one after the other."""
    return Outliers(
        torch.cat([part.counts for part in parts]),
        torch.cat([part.columns for part in parts]),
        torch.cat([part.numbers for part in parts]),
    )


def clip(vectors: torch.Tensor, sizes: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest and the smallest numbers of each vector, and the vectors within the range of the others.

    Args:
        vectors: `[V, n]`, floating point.
        sizes: int64 `[V]`, how many numbers each has; the rest of a row is not looked at.
        count: how many of the largest, and as many of the smallest; fewer where none would be left.

    Returns:
        The vectors `[V, n]` with these numbers moved to the nearest of the others, and bool `[V, n]`, which
        they are. Of equal numbers the first is the smaller one.
    """
    places = torch.arange(vectors.shape[1], device=vectors.device)
    there = places < sizes[:, None]
    order = vectors.masked_fill(~there, float("inf")).argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, places.expand_as(order))
    each = ((sizes - 1) // 2).clamp(0, count)[:, None]
    mask = ((rank < each) | (rank >= sizes[:, None] - each)) & there
    rest = there & ~mask
    low = vectors.masked_fill(~rest, float("inf")).amin(1, keepdim=True)
    high = vectors.masked_fill(~rest, float("-inf")).amax(1, keepdim=True)
    return torch.where(mask, vectors.clamp(low, high), vectors), mask
