"""Histories: the anchors of one site on one branch, and the state of one branch."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from dcache.kernels.packed import Packed, Stored

Leaves = tuple[Stored | None, ...]


class ChangeIndicator(Protocol):
    """What a branch keeps of a dynamic rule's probe; `dcache.probes.SinceCompute` is one.

    Attributes:
        now: the probe's tensor in the evaluation under way, or None.
        most: how many tensors like it are held at most.
    """

    now: torch.Tensor | None
    max_tensors: int

    def update(self, x: torch.Tensor, logsnr: float | None) -> None:
        """Take the probe's tensor of this evaluation."""
        ...

    def change(self) -> float:
        """The change since what it is compared with."""
        ...

    def end_step(self, computed: bool, output: Any) -> None:
        """The evaluation is over."""
        ...

    def tensors(self) -> Iterable[torch.Tensor]:
        """Every tensor held."""
        ...

    def capacity(self) -> Iterable[torch.Tensor]:
        """Tensors like those that will be held."""
        ...


@dataclass(slots=True)
class History:
    """The last `limit` anchors of a site, oldest first, and how long ago the newest was computed.

    Memory is allocated for each of the first `limit` anchors; from then on each new one is written into the
    buffer of the one it replaces. The replaced anchor is dropped before its buffer is overwritten.

    Attributes:
        spare: memory of an anchor that was dropped, for the next one.
        like: shape and dtype of each leaf as it came, where there is a memory limit (`engine/memory.py`).
        run_length: predictions since the newest anchor.
        memory: what the rule keeps of this site between its decisions.
        forecast: the last entry before the newest anchor, predicted or computed, for predictors that read it.
        predicted_at: clock value of the last prediction.
        half: whether the anchors are of the rows with the prompt only.
        form: how the site's output is put together from an anchor's leaves, where branches may differ in it.
    """

    limit: int
    leaves: list[Leaves] = field(default_factory=list)
    taus: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    run_length: int = 0
    memory: dict[str, float] = field(default_factory=dict)
    forecast: Leaves | None = None
    predicted_at: float = 0.0
    half: bool = False
    spare: Leaves = ()
    like: tuple[tuple[torch.Size, torch.dtype] | None, ...] = ()
    form: Any = None

    def make_room(self, tau: float) -> None:
        """Drop the anchor that one at this clock value replaces; its memory is spare then."""
        replaced = self._replaced(tau)
        if replaced is not None:
            dropped = self.leaves[replaced]
            self.drop(replaced)
            # Without a prediction since, the last entry is the newest anchor itself.
            self.spare = dropped if dropped is not self.forecast else ()

    def push(self, step: int, tau: float, leaves: Leaves) -> None:
        """Add an anchor; one at the newest one's clock replaces it, the oldest beyond `limit` goes."""
        replaced = self._replaced(tau)
        if replaced is not None:
            self.drop(replaced)
        self.leaves.append(leaves)
        self.taus.append(tau)
        self.steps.append(step)
        self.run_length = 0
        self.spare = ()

    def clear(self) -> None:
        """Forget everything."""
        self.leaves.clear()
        self.taus.clear()
        self.steps.clear()
        self.run_length = 0
        self.memory.clear()
        self.forecast = None
        self.half = False
        self.spare = ()

    def tensors(self) -> Iterable[torch.Tensor]:
        """Every tensor held."""
        for leaves in (*self.leaves, self.forecast or (), self.spare):
            yield from tensors_of(leaves)

    def drop(self, i: int) -> None:
        """Forget the i-th anchor."""
        del self.leaves[i], self.taus[i], self.steps[i]

    def _replaced(self, tau: float) -> int | None:
        if self.taus and self.taus[-1] == tau:
            return -1
        return 0 if len(self.taus) == self.limit else None


@dataclass(slots=True)
class Branch:
    """One guidance branch of one run: its histories, by site, and what its calls look like.

    Attributes:
        signature: shapes, dtypes and flags of its calls; another signature starts it afresh.
        indicator: says how much the dynamic rule's probe has changed, or None.
        condition: the conditioning tensor of its calls, to know the branch again when another stops calling.
        reset: why the histories were emptied since the last computed event ("" if they were not).
        refused: bytes of what the indicator could not be shown for want of room.
        settled: whether it was seen to fit a budget, once it is full.
        paired: whether its batch is known to be the two halves of guidance (asked only where it matters).
    """

    name: str
    limit: int
    signature: Hashable = None
    histories: dict[str, History] = field(default_factory=dict)
    indicator: ChangeIndicator | None = None
    condition: weakref.ref[torch.Tensor] | None = None
    reset: str = ""
    paired: bool = False
    settled: bool = False
    refused: int = 0

    def history(self, site: str) -> History:
        """The history of a site, made when first asked for."""
        found = self.histories.get(site)
        if found is None:
            found = self.histories[site] = History(self.limit)
        return found

    def start_afresh(self, reason: str) -> None:
        """Forget all histories."""
        self.histories.clear()
        self.indicator = None
        self.settled = False
        self.reset = reason

    def tensors(self) -> Iterable[torch.Tensor]:
        """Every tensor held."""
        for history in self.histories.values():
            yield from history.tensors()
        if self.indicator is not None:
            yield from self.indicator.tensors()


def tensors_of(leaves: Leaves) -> Iterable[torch.Tensor]:
    """The tensors of one anchor."""
    for leaf in leaves:
        if isinstance(leaf, Packed):
            yield from leaf.tensors()
        elif leaf is not None:
            yield leaf


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages that the tensors keep alive, each storage once."""
    storages: dict[tuple[torch.device, int], int] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.device, storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
