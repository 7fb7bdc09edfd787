"""`Run`: one batch under a method, from forward to forward."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from dcache.diffusion_lm.engine import Engine, RowLogits, Stream
from dcache.diffusion_lm.method import RowMethod
from dcache.diffusion_lm.row_stats import RowStats
from dcache.diffusion_lm.step import Plan, Step, bool_rows


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
        turns: int64 `[B]`, forwards that each sequence took part in.
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
    turns: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Count from zero."""
        self.turns = torch.zeros(len(self.region), dtype=torch.long, device=self.region.device)

    def step_of(self, ids: torch.Tensor, masked: torch.Tensor) -> Step:
        """The state that the policy decides by before the next forward."""
        step = Step(
            self.index,
            self.block.steps,
            ids,
            masked,
            (ids != self.stream.computed) & self.real,
            self.region,
            self.block.start,
            self.block.end,
            self.block.previous,
            self.turns,
            model_block=self.model_block,
        )
        observer = self.stream.observer
        return step if observer is None else replace(step, **dict[str, Any](observer.notes(ids)))

    def rows(self, step: Step, active: torch.Tensor) -> tuple[torch.Tensor, str]:
        """Rows bool `[B, T]` of a forward, and the reason where they are all.

        Args:
            step: what the policy sees.
            active: bool `[B]`; sequences that wait for others, or are finished, compute nothing.
        """
        reason = self.whole or self.method.policy.refresh(step) or ""
        if reason:
            rows = required = torch.ones_like(step.masked)
        else:
            # Positions that were never computed have no keys.
            required = self.stream.computed < 0
            if self.method.delay:
                required = required | step.last
            named = bool_rows(self.method.policy.rows(step), step.ids, f"rows of {self.method.name}")
            rows = named | required
            if self.shift:
                rows = with_predecessors(rows, rows & step.masked)
            rows = rows & self.real & active[:, None]
        if self.stream.observer is not None:
            self.stream.observer.begin(Plan(step, rows, required & rows, self.real, active, self.shift))
        self.turns = self.turns + active
        return rows, reason

    def forward(
        self, ids: torch.Tensor, rows: torch.Tensor, reason: str, more: Mapping[str, Any]
    ) -> RowLogits:
        """Compute rows, and count them."""
        begin = time.perf_counter()
        result = self.stream.forward(ids, rows, more)
        self.stats.seconds += time.perf_counter() - begin
        observer = self.stream.observer
        extra, reason = (0.0, reason) if observer is None else (observer.extra, reason or observer.reason)
        self.stats.forwards += 1
        self.stats.rows += self.stream.rows + extra
        self.stats.possible += rows.numel()
        if reason:
            self.stats.refreshed(reason)
        self.stats.bytes_held = max(self.stats.bytes_held, self.stream.bytes_held)
        self.index += 1
        self.block.steps += 1
        self.whole = ""
        if self.stream.rows == rows.numel():
            self.model_block = self.stream.masks.block()
        return result


def with_predecessors(rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Rows, and for each wanted position the one before it, which predicts it; position 0 predicts itself."""
    rows = rows.clone()
    rows[:, :-1] |= wanted[:, 1:]
    return rows
