"""`Pass`: one forward of the model, as its attention calls see it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from dcache.diffusion_lm.masks import Masks
from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.store import KVStore

_thread = threading.local()


class AttentionObserver(Protocol):
    """Sees the queries and all keys of each attention call."""

    def attended(
        self, query: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> None:
        """Query `[B, H, K, d]`, keys `[B, h, T, d]`, mask as in `Masks`."""


class Pass:
    """One forward: the rows, where their keys and values go, and the masks.

    Attributes:
        selection: rows of the calls to come; elastic changes it between layers.
        capture: every row is computed with the model's own masks, which are kept.
        calls: attention calls so far.
    """

    def __init__(
        self, selection: Selection, store: KVStore, masks: Masks, observer: AttentionObserver | None = None
    ) -> None:
        self.selection, self.store, self.masks, self.observer = selection, store, masks, observer
        self.capture = selection.full
        self.calls = 0

    def attention(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Keys and values of all positions, and the mask, for one attention call."""
        call = self.calls
        keys, values = self.store_rows(keys, values)
        mask = self.mask(call, mask)
        self.observe(query, keys, mask, scale)
        return keys, values, mask

    def store_rows(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the next call's fresh keys and values; returns those of all positions."""
        call = self.calls
        self.calls += 1
        return self.store.write(call, keys, values, self.selection)

    def mask(self, call: int, mask: torch.Tensor | None) -> torch.Tensor | None:
        """The mask of a call: the model's own in a full pass, rows of the captured one else."""
        if self.capture:
            self.masks.capture(call, mask)
            return mask
        return self.masks.rows(call, self.selection)

    def observe(
        self, query: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None, scale: float | None
    ) -> None:
        """Show one attention call to the observer."""
        if self.observer is not None:
            self.observer.attended(query, keys, mask, query.shape[-1] ** -0.5 if scale is None else scale)


def current() -> Pass | None:
    """The pass that runs in this thread."""
    return getattr(_thread, "running", None)


@contextmanager
def running(forward: Pass) -> Iterator[None]:
    """Attention calls of this thread belong to this pass inside the block."""
    before = current()
    _thread.running = forward
    try:
        yield
    finally:
        _thread.running = before
