"""The memo of one denoiser: outputs of its timed modules, kept by timestep and conditions."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Hashable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import local
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dcache.errors import DcacheError, DcacheWarning
from dcache.identity.timestep import takes_time
from dcache.intercept.module_call import ModuleIntercept, compiled_inside, intercepts_of
from dcache.time_memo.keys import Clock, Moment, Moments
from dcache.time_memo.observe import TimedModule, observe
from dcache.time_memo.report import MemoReport
from dcache.time_memo.table import Table, equal, tensors_in
from dcache.time_memo.weights import Weights, stamp

if TYPE_CHECKING:
    from collections.abc import Iterator

OFFLOADS = ("keep", "cpu")


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


class TimeMemo:
    """Keeps what depends on the timestep alone; bit-identical to computing it.

    The first call of the denoiser is observed. Each output is computed twice: when it is first needed, and
    when it is needed again. If the two differ, its module is computed always.

    Args:
        module: the denoiser.
        sampler: returns the pipeline's sampler, or None.
        offload: "keep", or "cpu": weights that nobody needs leave the device.
        text: also modules that depend on the text's embeddings.

    Attributes:
        timed: the timed modules, None before the first call.
        dropped: name of a module -> why it is computed always.
        counts: what happened so far.
    """

    def __init__(
        self, module: nn.Module, sampler: Callable[[], Any], offload: str = "keep", text: bool = False
    ) -> None:
        self.module, self.offload, self.text = module, offload, text
        self.clock = Clock(module, sampler)
        self.moments = Moments(module, self.clock)
        self.timed: list[TimedIntercept] | None = None
        self.dropped: dict[str, str] = {}
        self.counts = Counts()
        self.sources: frozenset[str] = frozenset()
        self._thread = local()
        self._stamps: tuple[object, ...] = ()
        self._observing = False
        self.outer = DenoiserIntercept(module, self)
        self.outer.install()

    @property
    def moment(self) -> Moment | None:
        """The denoiser's call under way in this thread."""
        return getattr(self._thread, "moment", None)

    @contextmanager
    def during(self, moment: Moment | None) -> Iterator[None]:
        """A call of the denoiser is under way."""
        before = self.moment
        self._thread.moment = moment
        try:
            yield
        finally:
            self._thread.moment = before

    def call(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The denoiser's call."""
        if torch.is_grad_enabled() or self._observing:
            # Weights may be trained, and outputs be part of a graph.
            return inner(*args, **kwargs)
        if self.timed is not None and self._stamps != self._stamped():
            self._restart()
        if self.timed is None:
            return self._observe(inner, args, kwargs)
        self._forget_dead()
        with self.during(self.moments.of(args, kwargs, self.sources)):
            return inner(*args, **kwargs)

    def drop(self, timed: TimedIntercept, why: str) -> None:
        """Take a module out for good, and say so."""
        name = timed.part.name
        self.dropped[name] = why
        timed.take_out()
        if self.timed is not None:
            self.timed = [other for other in self.timed if other is not timed]
            self._stamps = self._stamped()
        warnings.warn(
            f"{type(self.module).__name__}.{name} is computed always: {why}", DcacheWarning, stacklevel=2
        )

    def room_for(self, nbytes: int) -> bool:
        """Whether tables of so many bytes more are smaller than the weights; old conditions make way."""
        tables = [timed.table for timed in self.timed or ()]
        limit = sum(timed.weights.nbytes for timed in self.timed or ())
        held = sum(table.nbytes for table in tables)
        if held + nbytes <= limit:
            return True
        numbers = sorted({n for table in tables for entry in table.entries.values() for n in entry.numbers})
        # All conditions but the newest, which are those of the picture under way.
        old = set(numbers[: len(numbers) // 2])
        for table in tables:
            table.forget(old)
        return sum(table.nbytes for table in tables) + nbytes <= limit

    def remove(self) -> None:
        """Take the memo off; all weights are on their device again."""
        self._clear()
        self.outer.remove()
        # Breaks the circle, so that the denoiser is freed with its last reference.
        vars(self).pop("outer", None)

    def report(self) -> MemoReport:
        """What the memo holds and saves."""
        timed = self.timed or []
        return MemoReport(
            modules={t.part.name: tuple(sorted(t.part.sources)) for t in timed},
            parameters=sum(p.numel() for p in self.module.parameters()),
            timed_parameters=_numel([t.part.module for t in timed]),
            weight_bytes=sum(t.weights.nbytes for t in timed),
            bytes_away=sum(t.weights.nbytes for t in timed if t.weights.are_away),
            table_bytes=sum(t.table.nbytes for t in timed),
            entries=sum(len(t.table.entries) for t in timed),
            hits=self.counts.hits,
            fills=self.counts.fills,
            checks=self.counts.checks,
            misses=self.counts.misses,
            waits=self.clock.waits,
            dropped=dict(self.dropped),
            observed=self.timed is not None,
        )

    def _observe(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._observing = True
        try:
            output, parts = observe(self.module, inner, args, kwargs, self.text)
        finally:
            self._observing = False
        compiled = [name for name, part in self.module.named_modules() if compiled_inside(part) is not None]
        inside = tuple(f"{name}." for name in compiled)
        outside = [part for part in parts if not (inside and part.name.startswith(inside))]
        self.timed = [TimedIntercept(part, self) for part in outside]
        self.sources = frozenset[str]().union(*(t.part.sources for t in self.timed))
        for timed in self.timed:
            timed.install()
        self._stamps = self._stamped()
        if not self.timed:
            where = " outside of compiled blocks" if compiled else ""
            warnings.warn(
                f"the memo has nothing to keep in {type(self.module).__name__}: no module{where} with "
                "weights depends on its timestep alone",
                DcacheWarning,
                stacklevel=2,
            )
        return output

    def _restart(self) -> None:
        """Weights were changed, replaced or adapted: what was kept is void, and the next call is observed."""
        self._clear()
        self.timed = None

    def _clear(self) -> None:
        for timed in self.timed or ():
            timed.take_out()
        self.timed = [] if self.timed is not None else None

    def _stamped(self) -> tuple[object, ...]:
        return tuple(stamp(timed.part.module) for timed in self.timed or ())

    def _forget_dead(self) -> None:
        dead = self.moments.identities.dead
        gone: set[int] = set()
        while dead:
            gone.add(dead.popleft())
        if gone:
            for timed in self.timed or ():
                timed.table.forget(gone)


class DenoiserIntercept(ModuleIntercept):
    """The denoiser's call, for its memo.

    Args:
        module: the denoiser.
        memo: its memo.
    """

    name = "memo"

    def __init__(self, module: nn.Module, memo: TimeMemo) -> None:
        super().__init__(module)
        self.memo = memo

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The call, with what was kept in the place of timed modules."""
        return self.memo.call(self.inner, args, kwargs)


class TimedIntercept(ModuleIntercept):
    """The call of a timed module.

    Args:
        part: the module and what it depends on.
        memo: the denoiser's memo; not kept alive.
    """

    name = "timed"

    def __init__(self, part: TimedModule, memo: TimeMemo) -> None:
        super().__init__(part.module)
        self.part = part
        self.table = Table()
        self.weights = Weights(part.module, "cpu")
        self._memo = weakref.ref(memo)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The output from the table, else computed and kept."""
        memo = self._memo()
        moment = None if memo is None else memo.moment
        # A second call within one of the denoiser's was not observed: a self-check, another's replay.
        if memo is None or moment is None or id(self) in moment.called:
            return self._compute(args, kwargs)
        moment.called.add(id(self))
        key = moment.key(self.part.sources, memo.clock.name)
        if key is None:
            memo.counts.misses += 1
            return self._compute(args, kwargs)
        key = (key, _shape_of(args, kwargs))
        entry = self.table.find(key)
        if entry is None:
            return self._fill(memo, key, args, kwargs)
        if not entry.checked:
            return self._check(memo, key, args, kwargs)
        memo.counts.hits += 1
        if memo.offload == "cpu":
            self.weights.leave()
        return self.table.output(entry)

    def take_out(self) -> None:
        """No longer stand in front of the module; its weights come back."""
        self.remove()
        self.weights.come_back()
        self.table.clear()

    def _compute(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self.weights.lock:
            self.weights.come_back()
            return self.inner(*args, **kwargs)

    def _fill(self, memo: TimeMemo, key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = self._compute(args, kwargs)
        memo.counts.fills += 1
        return self.table.store(key, output) if memo.room_for(_bytes(output)) else output

    def _check(self, memo: TimeMemo, key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = self._compute(args, kwargs)
        memo.counts.checks += 1
        entry = self.table.find(key)
        if entry is None:
            return output
        if not equal(entry.output, output):
            memo.drop(self, "its output differs between two calls with the same timestep and conditions")
        entry.checked = True
        return output


def memo_of(module: nn.Module) -> TimeMemo | None:
    """The memo of a denoiser, None without one."""
    for intercept in intercepts_of(module):
        if isinstance(intercept, DenoiserIntercept):
            return intercept.memo
    return None


def check_denoiser(module: nn.Module, offload: str, text: object) -> None:
    """Refuse what a memo cannot be made of.

    Raises:
        DcacheError: no timestep among the arguments, or an option out of range.
    """
    if offload not in OFFLOADS:
        raise DcacheError(f"offload must be one of {', '.join(map(repr, OFFLOADS))}, got {offload!r}")
    if not isinstance(text, bool):
        raise DcacheError(f"text must be True or False, got {text!r}")
    if not takes_time(module):
        raise DcacheError(
            f"{type(module).__name__} takes no timestep, so nothing of it can be kept by timestep. Give the "
            "denoiser, or the pipeline that has it."
        )


def _shape_of(args: Sequence[Any], kwargs: dict[str, Any]) -> Hashable:
    """Shapes, dtypes and devices of a module's arguments; other arguments as they are."""
    named = tuple((name, _mark(value)) for name, value in kwargs.items())
    return tuple(_mark(value) for value in args), named


def _mark(value: Any) -> Hashable:
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype, value.device
    if isinstance(value, bool | int | float | str | torch.dtype):
        return value
    return type(value)


def _bytes(output: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(output))


def _numel(modules: Sequence[nn.Module]) -> int:
    return sum(p.numel() for p in {id(p): p for module in modules for p in module.parameters()}.values())
