"""`Step`: what a policy sees before a forward; `Plan`: what an observer of the forward is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dcache.errors import DcacheError


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
        turns: int64 `[B]`, forwards that each sequence took part in; others wait for the rest of the batch.
        upcoming: positions that will be decoded from this forward; None where that is not known before.
        tracked: tokens whose attention the drift test compares; None without one.
        confidence: float32 `[B, T]`, the largest probability that each masked position had when it was last
            computed; None where no observer measures it.
        influence: float32 `[B, T]`, the attention that flows from each position to all others, by rollout;
            None where no observer measures it.
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
    turns: torch.Tensor
    upcoming: torch.Tensor | None = None
    tracked: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    influence: torch.Tensor | None = None
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


def bool_rows(rows: Any, ids: torch.Tensor, what: str) -> torch.Tensor:
    """The rows that a policy or a decoder names.

    Raises:
        DcacheError: they are not bool `[B, T]` like ids.
    """
    if isinstance(rows, torch.Tensor) and rows.dtype == torch.bool and rows.shape == ids.shape:
        return rows
    came = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, torch.Tensor) else type(rows).__name__
    raise DcacheError(f"{what} must return a bool tensor {list(ids.shape)}, got {came}")


@dataclass(frozen=True)
class Plan:
    """What the next forward computes; masks are bool `[B, T]`.

    Attributes:
        step: what the policy saw.
        rows: rows of the forward.
        required: those of them that the engine asks for: of the delay, and never computed ones.
        real: positions that are no pads.
        active: bool `[B]`, sequences that do not wait.
        shift: row i predicts token i + 1.
    """

    step: Step
    rows: torch.Tensor
    required: torch.Tensor
    real: torch.Tensor
    active: torch.Tensor
    shift: bool = False
