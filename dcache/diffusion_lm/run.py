"""`Run`: one batch under a method, from forward to forward."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dcache.diffusion_lm.engine import Engine, RowLogits, Stream
from dcache.diffusion_lm.method import RowMethod
from dcache.diffusion_lm.row_stats import RowStats
from dcache.diffusion_lm.step import Step


@dataclass
class Block:
    """The block that is decoded: columns `start` to before `end`, and where the one before it began."""

    start: int
    end: int
    previous: int
    steps: int = 0

    def move(self, start: int, end: int) -> None:
        """Go on to another block."""
        self.previous, self.start, self.end, self.steps = self.start, start, end, 0


@dataclass
class Run:
    """State of a batch between forwards.

    Attributes:
        engine: the bound model.
        method: which rows are computed.
        region: bool `[B, T]`, positions to generate.
        real: bool `[B, T]`, positions that are no pads.
        stream: keys and values.
        block: the current block.
        shift: row i predicts token i + 1.
        stats: counts.
        index: forwards so far.
        whole: the next forward computes all rows, for this reason; "" for no reason.
        model_block: block size of a block-causal attention mask; None for another mask.
    """

    engine: Engine
    method: RowMethod
    region: torch.Tensor
    real: torch.Tensor
    stream: Stream
    block: Block
    shift: bool
    stats: RowStats
    index: int = 0
    whole: str = "start"
    model_block: int | None = None

    def step_of(self, ids: torch.Tensor, masked: torch.Tensor, upcoming: torch.Tensor | None) -> Step:
        """The state that the policy decides by before the next forward."""
        observer = self.stream.observer
        return Step(
            self.index,
            self.block.steps,
            ids,
            masked,
            (ids != self.stream.computed) & self.real,
            self.region,
            self.block.start,
            self.block.end,
            self.block.previous,
            upcoming,
            None if observer is None else observer.tracked(ids),
            self.model_block,
        )

    def rows(self, step: Step, active: torch.Tensor) -> tuple[torch.Tensor, str]:
        """Rows bool `[B, T]` of a forward, and the reason where they are all.

        Args:
            step: what the policy sees.
            active: bool `[B]`; sequences that wait for others, or are finished, compute nothing.
        """
        reason = self.whole or self.method.policy.refresh(step) or ""
        if reason:
            return self._begin(step, torch.ones_like(step.masked), active), reason
        rows = self.method.policy.rows(step)
        if self.method.delay:
            rows = rows | step.last
        # Positions that were never computed have no keys.
        rows = rows | (self.stream.computed < 0)
        if self.shift:
            rows = with_predecessors(rows, rows & step.masked)
        return self._begin(step, rows & self.real & active[:, None], active), ""

    def _begin(self, step: Step, rows: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
        """Tell the drift test what the next forward computes; returns the rows."""
        if self.stream.observer is not None:
            window = self.method.policy.window or step.ids.shape[1]
            self.stream.observer.begin(
                step.leftmost(window), rows, self.real & ~step.masked, self.real, active
            )
        return rows

    def forward(
        self, ids: torch.Tensor, rows: torch.Tensor, reason: str, more: Mapping[str, Any]
    ) -> RowLogits:
        """Compute rows, and count them."""
        begin = time.perf_counter()
        result = self.stream.forward(ids, rows, more)
        self.stats.seconds += time.perf_counter() - begin
        observer = self.stream.observer
        extra = 0.0 if observer is None else observer.more_rows()
        self.stats.forwards += 1
        self.stats.rows += int(rows.sum()) + extra
        self.stats.possible += rows.numel()
        if reason:
            self.stats.refreshed(reason)
        elif extra:
            self.stats.refreshed("drift")
        self.stats.bytes_held = max(self.stats.bytes_held, self.stream.bytes_held)
        self.index += 1
        self.block.steps += 1
        self.whole = ""
        if rows.all():
            self.model_block = self.stream.masks.block()
        return result


def with_predecessors(rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Rows, and for each wanted position the one before it, which predicts it; position 0 predicts itself."""
    rows = rows.clone()
    rows[:, :-1] |= wanted[:, 1:]
    return rows
