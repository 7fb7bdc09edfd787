"""`Pass`: one forward of the model, as its attention calls see it; `Observer`: what watches or changes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dcache.diffusion_lm.masks import Masks
from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.step import Plan
from dcache.diffusion_lm.store import KVStore
from dcache.errors import DcacheError

_thread = threading.local()


class Observer:
    """Base of a policy's observers, which measure forwards and change them; the state of one batch.

    Attributes:
        reason: why the last forward computed more rows than the policy named; "" where it did not.
        extra: rows that the last forward computed beyond those it began with, as a mean over layers; less
            than 0 where layers left some out.
    """

    reason: str = ""
    extra: float = 0.0

    def begin(self, plan: Plan) -> None:
        """Before a forward."""

    def enter(
        self, forward: Pass, layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Before a layer; returns its arguments, or None for those it has."""

    def leave(self, forward: Pass, layer: int, output: Any) -> Any:
        """After a layer; returns its output, or None for the one it has."""

    def attended(
        self,
        forward: Pass,
        query: torch.Tensor,
        keys: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
    ) -> None:
        """Query `[B, H, K, d]`, keys `[B, h, T, d]`, mask as in `Masks`."""

    def finish(self, logits: torch.Tensor, selection: Selection) -> None:
        """After a forward; logits `[B, K, V]`."""

    def notes(self, ids: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Fields of the next `Step`."""
        return {}

    def grow(self, width: int) -> None:
        """Make room for more positions, which the next forward computes."""

    @property
    def bytes_held(self) -> int:
        """Bytes of what is kept between forwards."""
        return 0


class ValuesReached(BaseException):
    """A layer has projected its values, and what is behind that is not wanted."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.values = values


class Pass:
    """One forward: the rows, where their keys and values go, and the masks.

    Attributes:
        selection: rows of the calls to come; an observer may change it between layers.
        capture: every row is computed with the model's own masks, which are kept.
        calls: attention calls so far.
    """

    def __init__(
        self, selection: Selection, store: KVStore, masks: Masks, observer: Observer | None = None
    ) -> None:
        self.selection, self.store, self.masks, self.observer = selection, store, masks, observer
        self.capture = selection.full
        self.calls = 0
        self._only_values = False

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
        if self._only_values:
            raise ValuesReached(values)
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
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            self.observer.attended(self, query, keys, mask, scale)

    def values_of(self, layer: Callable[[], Any]) -> torch.Tensor:
        """The values `[B, h, K, d]` that a layer projects; it runs up to its attention.

        Raises:
            DcacheError: it has no attention.
        """
        self._only_values = True
        try:
            layer()
        except ValuesReached as reached:
            return reached.values
        finally:
            self._only_values = False
        raise DcacheError("a layer has no attention, whose values choose rows: use another policy")


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
