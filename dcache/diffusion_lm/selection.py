"""`Selection`: the rows that one forward computes."""

from __future__ import annotations

from functools import cached_property

import torch

from dcache.kernels import RowIndex, scatter_rows


class Selection:
    """Rows of a batch, as a padded index.

    Args:
        mask: bool `[B, T]`, True for rows to compute.
        wide: keep slot j for position j, with -1 for positions that are not computed, in place of moving the
            rows of each sequence together.
        least: slots at least, where no sequence has so many rows.

    Attributes:
        mask: the rows.
        index: `[B, K]` positions; -1 in slots without a row.
        count: how many rows there are.
        full: every row of every sequence is computed.
    """

    def __init__(self, mask: torch.Tensor, wide: bool = False, least: int = 0) -> None:
        self.mask = mask
        B, T = mask.shape
        # Read once: on a GPU every number that is read waits for the device.
        counts = mask.sum(1).tolist()
        self.count = sum(counts)
        self.full = self.count == B * T
        K = max(*counts, least) if not wide else T
        self._even = all(count == K for count in counts)
        columns = torch.arange(T, device=mask.device).expand(B, T)
        if wide or self.full:
            order, named = columns, mask
        else:
            order = mask.to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :K]
            named = mask if self._even else mask.gather(1, order)
        index = order if self._even else torch.where(named, order, -1)
        self.index = RowIndex(index.contiguous(), T, trusted=True)

    @property
    def named(self) -> torch.Tensor:
        """Bool `[B, K]`: slots with a row."""
        return self.index.index >= 0

    @cached_property
    def positions(self) -> torch.Tensor:
        """Int64 `[B, K]`: positions; 0 in slots without a row."""
        return self.index.index if self._even else self.index.index.clamp(min=0)

    @cached_property
    def slots(self) -> torch.Tensor:
        """Int64 `[B, T]`: slot of each position that is computed, 0 of the others."""
        K = self.index.index.shape[1]
        slots = torch.arange(K, device=self.mask.device).expand(len(self.mask), K)
        return self.put(torch.zeros_like(self.mask, dtype=torch.long), slots.contiguous())

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """The selected rows `[B, K, ...]` of `[B, T, ...]`; slots without a row get position 0's."""
        if self.full:
            return values
        return values.gather(1, self._expanded(self.positions, values))

    def put(self, values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Write rows `[B, K, ...]` into `[B, T, ...]` in place; returns it."""
        return scatter_rows(values, self.index, rows, 1)

    @staticmethod
    def _expanded(index: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return index.view(*index.shape, *[1] * (values.ndim - 2)).expand(*index.shape, *values.shape[2:])
