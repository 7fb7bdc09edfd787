"""`Engine`: a model that computes rows of its sequences; `Stream`: the state of one batch of sequences."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dcache.diffusion_lm.bind.base import Binding, logits_of
from dcache.diffusion_lm.masks import Masks
from dcache.diffusion_lm.method import RowPolicy
from dcache.diffusion_lm.passes import Observer, Pass
from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.store import KVStore
from dcache.diffusion_lm.taps import LayerTaps
from dcache.errors import DcacheError


@dataclass(frozen=True)
class RowLogits:
    """Logits of the rows that a forward computed.

    Attributes:
        logits: `[B, K, V]`.
        selection: the rows they belong to.
        output: the model's own output object.
    """

    logits: torch.Tensor
    selection: Selection
    output: Any

    def at(self, positions: torch.Tensor) -> torch.Tensor:
        """Logits `[B, C, V]` at positions int64 `[B, C]` that were computed."""
        slots = positions if self.selection.full else self.selection.slots.gather(1, positions)
        return self.logits.gather(1, slots[..., None].expand(-1, -1, self.logits.shape[-1]))


class Engine:
    """A bound model.

    Args:
        model: the model.
        call: its call behind dcache's intercept.
        binding: from `bind`.
        taps: on the model's layers, where the policy needs them.
    """

    def __init__(
        self, model: nn.Module, call: Callable[..., Any], binding: Binding, taps: LayerTaps | None = None
    ) -> None:
        self.model, self.call, self.binding, self.taps = model, call, binding, taps

    def stream(self, policy: RowPolicy, positions: torch.Tensor) -> Stream:
        """The state of a new batch under a policy; positions int64 `[B, T]`."""
        return Stream(self, positions, policy.observer(0 if self.taps is None else self.taps.count))

    def remove(self) -> None:
        """Take off what was put on the model."""
        self.binding.remove()
        if self.taps is not None:
            self.taps.remove()

    def forward(
        self, forward: Pass, ids: torch.Tensor, positions: torch.Tensor, more: Mapping[str, Any]
    ) -> RowLogits:
        """Run the model on the rows of a pass.

        Args:
            forward: the pass.
            ids: int64 `[B, T]`.
            positions: int64 `[B, T]`.
            more: other arguments of the model; `attention_mask` is given in full passes alone, and tensors
                `[B, T, ...]` are taken by rows.

        Raises:
            DcacheError: the model called its attention another number of times than in its first pass, or
                does not return logits of every row.
        """
        selection = forward.selection
        arguments = {"input_ids": selection.take(ids), "position_ids": selection.take(positions)}
        for name, value in more.items():
            if name == "attention_mask":
                if forward.capture and value is not None:
                    arguments[name] = value
            else:
                arguments[name] = _taken(selection, value, ids)
        output = self.binding.run(forward, self.call, arguments)
        logits, K = logits_of(output), forward.selection.index.index.shape[1]
        if logits.shape[:2] != (len(ids), K):
            raise DcacheError(
                f"the model returned logits {list(logits.shape)} for {K} rows of {len(ids)} sequences: it "
                "must return those of every row"
            )
        return RowLogits(logits, forward.selection, output)


class Stream:
    """Keys, values and masks of one batch of sequences.

    Args:
        engine: the bound model.
        positions: int64 `[B, T]`.
        observer: what the policy measures in forwards; None for most.

    Attributes:
        computed: ids that each position was last computed with, int64 `[B, T]`; -1 before the first time.
        rows: how many rows the last forward began with.
    """

    def __init__(self, engine: Engine, positions: torch.Tensor, observer: Observer | None = None) -> None:
        self.engine, self.positions, self.observer = engine, positions, observer
        self.store, self.masks = KVStore(), Masks()
        self.computed = torch.full_like(positions, -1)
        self.rows = 0

    def forward(self, ids: torch.Tensor, rows: torch.Tensor, more: Mapping[str, Any]) -> RowLogits:
        """Compute rows bool `[B, T]`; the first forward computes all.

        Raises:
            DcacheError: there are none.
        """
        selection = Selection(rows)
        if not selection.count:
            raise DcacheError(
                "no row was named for a forward: rows of a policy must have a masked position of the block"
            )
        self.rows = selection.count
        forward = Pass(selection, self.store, self.masks, self.observer)
        result = self.engine.forward(forward, ids, self.positions, more)
        if self.observer is not None:
            self.observer.finish(result.logits, result.selection)
        # Not those that a drift test added: their first layers are as old as before.
        self.computed = torch.where(rows, ids, self.computed)
        return result

    def grow(self, positions: torch.Tensor) -> bool:
        """Make room for more positions; returns False where the next forward has to compute all rows."""
        T = self.computed.shape[1]
        width = positions.shape[1]
        computed = torch.full_like(positions, -1)
        computed[:, :T] = self.computed
        self.computed, self.positions = computed, positions
        self.store.grow(width)
        if self.observer is not None:
            self.observer.grow(width)
        return self.masks.grow(width)

    @property
    def bytes_held(self) -> int:
        """Bytes of keys, values, masks and ids."""
        observed = 0 if self.observer is None else self.observer.bytes_held
        return self.store.bytes_held + self.masks.bytes_held + observed


def with_logits(output: Any, logits: torch.Tensor) -> Any:
    """A copy of a model's output with other logits.

    Raises:
        DcacheError: the output has no field `logits`.
    """
    logits_of(output)
    new = copy.copy(output)
    new.logits = logits
    return new


def _taken(selection: Selection, value: Any, ids: torch.Tensor) -> Any:
    by_rows = isinstance(value, torch.Tensor) and value.ndim >= 2 and value.shape[:2] == ids.shape
    return selection.take(value) if by_rows else value
