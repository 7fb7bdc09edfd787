"""The call of a timed module: from its table, else computed, kept, and compared when it is needed again."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from dcache.intercept.module_call import ModuleIntercept
from dcache.time_memo.arguments import tensors_in
from dcache.time_memo.checkpoint import Checkpoint
from dcache.time_memo.keys import Moment
from dcache.time_memo.observe import TimedModule
from dcache.time_memo.recent import Recent
from dcache.time_memo.table import Entry, Table, equal
from dcache.time_memo.weights import Weights
from dcache.util.bytes import bytes_of_elements

_MANY_TIMES = 4096


@dataclass
class Counts:
    """What happened so far.

    Attributes:
        hits: outputs that came from a table.
        fills: outputs that were computed and kept.
        checks: outputs that were computed a second time and compared.
        misses: calls of timed modules without a timestep, which were computed.
    """

    hits: int = 0
    fills: int = 0
    checks: int = 0
    misses: int = 0


class Memo(Protocol):
    """Interface: the memo of the denoiser that a timed module is part of."""

    counts: Counts
    offload: str
    time_name: str

    @property
    def moment(self) -> Moment | None:
        """The denoiser's call under way in this thread."""
        ...

    def room_for(self, nbytes: int) -> bool:
        """Whether so many bytes more may be kept."""
        ...

    def note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], moment: Moment) -> None:
        """A timed module is computed with these arguments."""
        ...

    def drop(self, timed: TimedIntercept, why: str) -> None:
        """Take a module out for good, and say so."""
        ...


class TimedIntercept(ModuleIntercept):
    """The call of a timed module.

    Args:
        part: the module and what it depends on.
        memo: the denoiser's memo; not kept alive.
        checkpoint: what weights are read from after they were freed, None where they go to the host.

    Attributes:
        table: what is kept of it.
        weights: where its weights are.
        confirmed: timesteps at which an output that was made ahead was compared with the call's own.
    """

    name = "timed"

    def __init__(self, part: TimedModule, memo: Memo, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(part.module)
        self.part = part
        self.table = Table()
        self.weights = Weights(part.name, part.module, checkpoint)
        self.confirmed: Recent[Hashable, None] = Recent(_MANY_TIMES)
        self._memo = weakref.ref(memo)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The output from the table, else computed and kept."""
        memo = self._memo()
        moment = None if memo is None else memo.moment
        # A second call within one of the denoiser's was not observed: a self-check, another's replay.
        if memo is None or moment is None or id(self) in moment.called:
            return self.compute(args, kwargs)
        moment.called.add(id(self))
        key = self.key(moment, memo.time_name, args, kwargs)
        if key is None:
            memo.counts.misses += 1
            return self.compute(args, kwargs)
        entry = self.table.find(key)
        if entry is None:
            memo.note(self.part.name, args, kwargs, moment)
            return self._fill(memo, key, args, kwargs)
        if not entry.checked:
            return self._check(memo, entry, moment, args, kwargs)
        memo.counts.hits += 1
        if memo.offload != "keep":
            self.weights.leave()
        return self.table.output(entry)

    def key(
        self, moment: Moment, time_name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Hashable | None:
        """What tells this call's output from others; None without a timestep."""
        key = moment.key(self.part.sources, time_name)
        return None if key is None else (key, _shape_of(args, kwargs))

    def compute(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The module's own output."""
        with self.weights.lock:
            self.weights.come_back()
            return self.inner(*args, **kwargs)

    def full_bytes(self, times: int) -> int:
        """Bytes of the table once it has entries for so many timesteps; before there is any, as observed."""
        if self.table.entries:
            return self.table.full_bytes(times)
        return self.part.output_bytes * (times if self.part.by_time else 1)

    def take_out(self) -> None:
        """No longer stand in front of the module; its weights come back."""
        self.remove()
        self.weights.come_back()
        self.table.clear()

    def _fill(self, memo: Memo, key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = self.compute(args, kwargs)
        memo.counts.fills += 1
        fits = memo.room_for(bytes_of_elements(tensors_in(output)))
        return self.table.store(key, output) if fits else output

    def _check(
        self, memo: Memo, entry: Entry, moment: Moment, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        output = self.compute(args, kwargs)
        memo.counts.checks += 1
        if not equal(entry.output, output):
            memo.drop(self, "its output differs between two calls with the same timestep and conditions")
        entry.checked = True
        self.confirmed[moment.time] = None
        return output


def _shape_of(args: Sequence[Any], kwargs: dict[str, Any]) -> Hashable:
    """Shapes, dtypes and devices of a module's arguments; other arguments as they are."""
    marks: list[Hashable] = [*kwargs]
    # One loop, without calls of ours: this runs for every timed module in every step.
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            marks.append((value.shape, value.dtype, value.device))
        elif isinstance(value, bool | int | float | str | torch.dtype):
            marks.append((type(value), value))
        else:
            marks.append(type(value).__qualname__)
    return tuple(marks)
