"""`History`: the anchors of one site on one branch. `Branch`: the state of one guidance branch."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from dcache.kernels.packed import Packed, Stored

Leaves = tuple[Stored | None, ...]


class ChangeIndicator(Protocol):
    """Measures how much a dynamic rule's probe has changed on a branch, as `dcache.probes.SinceCompute` does.

    Attributes:
        now: the probe's tensor in the current evaluation, or None.
        max_tensors: most tensors of the probe's size that are kept.
    """

    now: torch.Tensor | None
    max_tensors: int

    def update(self, x: torch.Tensor, logsnr: float | None) -> None:
        """Take the probe's tensor of the current evaluation."""
        ...

    def change(self) -> float:
        """The relative change, infinite if there is nothing to compare with."""
        ...

    def end_step(self, computed: bool, output: Any) -> None:
        """End the current evaluation."""
        ...

    def tensors(self) -> Iterable[torch.Tensor]:
        """All tensors that are kept."""
        ...

    def capacity(self) -> Iterable[torch.Tensor]:
        """Tensors of the sizes and number that will be kept once all are there."""
        ...


@dataclass(slots=True)
class History:
    """The last `limit` anchors of a site, oldest first, and the number of predictions since the newest.

    Memory is allocated for each of the first `limit` anchors; from then on each new one is written into the
    buffer of the one it replaces. The replaced anchor is dropped before its buffer is overwritten.

    Attributes:
        limit: most anchors.
        leaves: for each anchor, one stored tensor per output tensor of the site; None where it is not stored.
        taus: clock values of the anchors.
        steps: evaluations of the anchors.
        run_length: predictions since the newest anchor.
        memory: numbers that the rule stores for this site between its decisions.
        forecast: the last entry before the newest anchor, predicted or computed, for predictors that read it.
        predicted_at: clock value of the last prediction.
        half: True if the anchors cover only the conditional rows of the batch.
        spare: memory of a dropped anchor, for the next one.
        like: shape and dtype of each output tensor before encoding; filled only under a memory limit
            (`engine/memory.py`).
        unsure: whether the output has a whole number beside its tensors that only one anchor shows so far.
        form: how the output is put together from an anchor's leaves, where branches may differ in it.
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
    unsure: bool = False
    form: Any = None

    def make_room(self, tau: float) -> None:
        """Drop the anchor that an anchor at this clock value replaces, and keep its memory as spare."""
        replaced = self._replaced(tau)
        if replaced is not None:
            dropped = self.leaves[replaced]
            self.drop(replaced)
            # Without a prediction since, the forecast is the newest anchor itself and its memory is in use.
            self.spare = dropped if dropped is not self.forecast else ()

    def push(self, step: int, tau: float, leaves: Leaves) -> None:
        """Add an anchor. It replaces one at the same clock value, else the oldest of `limit` anchors."""
        replaced = self._replaced(tau)
        if replaced is not None:
            self.drop(replaced)
        self.leaves.append(leaves)
        self.taus.append(tau)
        self.steps.append(step)
        self.run_length = 0
        self.spare = ()

    def clear(self) -> None:
        """Drop all anchors and the state that belongs to them."""
        self.leaves.clear()
        self.taus.clear()
        self.steps.clear()
        self.run_length = 0
        self.memory.clear()
        self.forecast = None
        self.half = self.unsure = False
        self.spare = ()

    def tensors(self) -> Iterable[torch.Tensor]:
        """All tensors that the history keeps."""
        for leaves in (*self.leaves, self.forecast or (), self.spare):
            yield from tensors_of(leaves)

    def drop(self, i: int) -> None:
        """Drop the i-th anchor."""
        del self.leaves[i], self.taus[i], self.steps[i]

    def _replaced(self, tau: float) -> int | None:
        if self.taus and self.taus[-1] == tau:
            return -1
        return 0 if len(self.taus) == self.limit else None


@dataclass(slots=True)
class Branch:
    """One guidance branch of one run: its histories by site, and the form of its calls.

    Attributes:
        name: the branch's name, unique in its run.
        limit: most anchors of each history.
        signature: shapes, dtypes and flags of its calls; a call with another signature resets the branch.
        histories: site -> history.
        indicator: the change indicator of the rule's probe, or None.
        condition: the conditioning tensor of its calls, which identifies the branch when others stop calling.
        reset: why the histories were emptied since the last computed event, "" if they were not.
        paired: True if its batch is known to be the two halves of guidance; set only where a method needs it.
        settled: True if full histories were found to fit the memory limit.
        output: shape of what its calls return, the first tensor of it; None before the first one.
        refused: bytes of a probe tensor that the indicator could not keep for lack of memory.
        began: the evaluation of its first call.
        changing: whole numbers among the arguments that were others in each evaluation; None in the first.
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
    output: torch.Size | None = None
    began: int = 0
    changing: frozenset[int | str] | None = None

    def history(self, site: str) -> History:
        """The history of a site; an empty one is made on first use."""
        history = self.histories.get(site)
        if history is None:
            history = self.histories[site] = History(self.limit)
        return history

    def emptied(self, limit: int, reset: str) -> Branch:
        """Another object for the same calls, without histories and indicator.

        Args:
            limit: most anchors of each history.
            reset: why the histories are empty, "" where they always were.
        """
        branch = Branch(self.name, limit, self.signature, condition=self.condition, reset=reset)
        branch.paired, branch.began, branch.changing = self.paired, self.began, self.changing
        return branch

    def start_afresh(self, reason: str) -> None:
        """Drop all histories and the indicator, and note the reason."""
        self.histories.clear()
        self.indicator = None
        self.settled = False
        self.reset = reason

    def tensors(self) -> Iterable[torch.Tensor]:
        """All tensors of the histories and the indicator."""
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
