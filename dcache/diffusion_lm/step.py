"""`Step`: what a policy sees before a forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Step:
    """One forward of a batch of B sequences of T positions; masks are bool `[B, T]`.

    Attributes:
        index: forwards of the run so far.
        in_block: forwards since the block began.
        ids: int64 `[B, T]`.
        masked: masked positions of the generation region.
        last: positions whose id changed since they were last computed.
        region: positions to generate; the others are the prompt and pads.
        start: first column of the current block.
        end: column behind the current block.
        previous: first column of the block before it; `start` where there is none.
        upcoming: positions that will be decoded from this forward; None where that is not known before.
        tracked: tokens whose attention the drift test compares; None without one.
        model_block: block size of a block-causal attention mask; None for another mask.
    """

    index: int
    in_block: int
    ids: torch.Tensor
    masked: torch.Tensor
    last: torch.Tensor
    region: torch.Tensor
    start: int
    end: int
    previous: int
    upcoming: torch.Tensor | None = None
    tracked: torch.Tensor | None = None
    model_block: int | None = None

    @property
    def columns(self) -> torch.Tensor:
        """Int64 `[T]`: 0 to T - 1."""
        return torch.arange(self.ids.shape[1], device=self.ids.device)

    def between(self, start: int, end: int) -> torch.Tensor:
        """Bool `[B, T]`: columns from `start` to before `end`."""
        columns = self.columns
        return ((columns >= start) & (columns < end)).expand(self.ids.shape)

    @property
    def block(self) -> torch.Tensor:
        """The current block, its decoded positions included."""
        return self.between(self.start, self.end)

    def leftmost(self, count: int) -> torch.Tensor:
        """The first masked positions of the block, `count` of each sequence."""
        masked = self.masked & self.block
        return masked & (masked.long().cumsum(1) <= count)
