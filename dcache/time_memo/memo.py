"""The memo of one denoiser: outputs of its timed modules, kept by timestep and conditions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from threading import RLock, local
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dcache.errors import DcacheWarning
from dcache.intercept.conflicts import NotInlined, being_compiled, compiled_whole
from dcache.intercept.module_call import ModuleIntercept, compiled_inside
from dcache.time_memo.ahead import Ahead
from dcache.time_memo.arguments import tensors_of
from dcache.time_memo.checkpoint import Checkpoint
from dcache.time_memo.clock import Clock
from dcache.time_memo.keys import Moment, Moments
from dcache.time_memo.observe import TimedModule, names_around, observe
from dcache.time_memo.report import MemoReport
from dcache.time_memo.room import Room
from dcache.time_memo.state import State, stateful
from dcache.time_memo.timed import Counts, TimedIntercept
from dcache.time_memo.weights import holders_of

if TYPE_CHECKING:
    from collections.abc import Iterator


class TimeMemo:
    """Keeps what depends on the timestep alone; bit-identical to computing it.

    The first call of the denoiser is observed. Each output is computed twice: when it is first needed, and
    when it is needed again. If the two differ, its module is computed always.

    Args:
        module: the denoiser.
        sampler: returns the pipeline's sampler, or None.
        offload: "keep"; "cpu": weights leave the device while tables answer; "drop": they are freed, and read
            again from the checkpoint where they are needed.
        text: also modules that depend on the text's embeddings; "alone": on them and not on the timestep.

    Attributes:
        timed: the timed modules, None before the first call.
        dropped: name of a module -> why it is computed always.
        counts: what happened so far.
        checkpoint: what dropped weights are read from, None without "drop".
        ahead: fills tables for new conditions, None before the first call.
        room: the bytes that tables may hold.
        time_name: the timestep argument's name.
        sources: the arguments that timed modules depend on.
    """

    def __init__(
        self, module: nn.Module, sampler: Callable[[], Any], offload: str = "keep", text: bool | str = False
    ) -> None:
        self.module, self.offload, self.text = module, offload, text
        self.clock = Clock(module, sampler)
        self.time_name = self.clock.name
        self.moments = Moments(module, self.clock)
        self.timed: list[TimedIntercept] | None = None
        self.ahead: Ahead | None = None
        self.dropped: dict[str, str] = {}
        self.counts = Counts()
        self.sources: frozenset[str] = frozenset()
        self.checkpoint = Checkpoint.of(module) if offload == "drop" else None
        self._hook = module.register_forward_pre_hook(MemoHook(self))
        self._thread = local()
        self._lock = RLock()
        self._state = State(self._fetch)
        self.room = Room(module)
        self.outer = DenoiserIntercept(module, self)
        # Behind caching, which calls a denoiser more than once to check it.
        self.outer.install_behind()

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
        if torch.is_grad_enabled():
            # Weights may be trained, and outputs be part of a graph.
            return inner(*args, **kwargs)
        with self._lock:
            if self.timed is not None and self._state.changed:
                self._restart()
            if self.timed is None:
                return self._observe(inner, args, kwargs)
        self._forget_dead()
        self.room.refer()
        moment = self.moments.of(args, kwargs, self.sources)
        if self.clock.misled:
            # Outputs were kept under other timesteps than theirs.
            self.clock.misled = False
            self._restart()
            return inner(*args, **kwargs)
        if self.offload != "keep" and self.ahead is not None:
            self.ahead.prepare(moment, partial(tensors_of, self.module, args, kwargs))
        with self.during(moment):
            return inner(*args, **kwargs)

    def note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], moment: Moment) -> None:
        """A timed module is computed with these arguments."""
        if self.ahead is not None:
            self.ahead.note(name, args, kwargs, moment)

    def drop(self, timed: TimedIntercept, why: str) -> None:
        """Take a module out for good, and say so."""
        self.clock.verify()
        if self.clock.misled:
            # Not the module's fault: the timestep was another one. The next call throws all tables away.
            return
        name = timed.part.name
        self.dropped[name] = why
        timed.take_out()
        if self.timed is not None:
            self.room.timed = self.timed = [other for other in self.timed if other is not timed]
        self._warn(f"{name} is computed always: {why}")

    def room_for(self, nbytes: int) -> bool:
        """Whether tables of so many bytes more may be kept; old conditions make way."""
        return self.room.fits(nbytes, self.moment)

    def remove(self) -> None:
        """Take the memo off; all weights are on their device again."""
        self.clock.verify()
        self._clear()
        self._state.close()
        self._hook.remove()
        self.outer.remove()
        # Breaks the circle, so that the denoiser is freed with its last reference.
        vars(self).pop("outer", None)

    def report(self) -> MemoReport:
        """What the memo holds and saves."""
        self.clock.verify()
        timed = self.timed or []
        return MemoReport.of(
            self.module,
            [t.part for t in timed],
            bytes_away=sum(t.weights.nbytes for t in timed if t.weights.are_away),
            table_bytes=self.room.bytes_now(),
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
        seen = observe(self.module, inner, args, kwargs, self.text, self.time_name)
        compiled = [name for name, part in self.module.named_modules() if compiled_inside(part) is not None]
        inside = tuple(f"{name}." for name in compiled)
        outside = [part for part in seen.timed if not (inside and part.name.startswith(inside))]
        self.timed = [TimedIntercept(part, self, self._checkpoint(part)) for part in outside]
        self.sources = frozenset[str]().union(*(t.part.sources for t in self.timed))
        holders = holders_of(self.module)
        for timed in self.timed:
            timed.weights.place(self.module, holders)
            timed.install()
        self.ahead = Ahead(seen.nodes, {timed.part.name: timed for timed in self.timed}, self.time_name)
        self.room.open(self.timed)
        self._watch(seen.before)
        if not self.timed:
            where = " outside of compiled blocks" if compiled else ""
            self._warn(f"the memo has nothing to keep: no module{where} depends on the timestep alone")
        return seen.output

    def _checkpoint(self, part: TimedModule) -> Checkpoint | None:
        """What a module's weights are read from again."""
        if self.checkpoint is None:
            return None
        different = self.checkpoint.differences(part.module, part.name)
        if different:
            # Quantised, fused with an adapter, or trained since: they go to the host.
            self._warn(f"{different[0]} is not what its file has, so {part.name} goes to the host instead")
            return None
        return self.checkpoint

    def _warn(self, text: str) -> None:
        warnings.warn(f"{type(self.module).__name__}: {text}", DcacheWarning, stacklevel=2)

    def _restart(self) -> None:
        """Weights were changed, replaced or adapted: what was kept is void, and the next call is observed."""
        self._clear()
        self.timed = None

    def _fetch(self) -> None:
        """Bring all weights back: an adapter is put on, which may be added to them."""
        for timed in self.timed or ():
            timed.weights.come_back()

    def _clear(self) -> None:
        for timed in self.timed or ():
            timed.take_out()
        self.timed, self.ahead = [], None
        self.room.open(())

    def _watch(self, names: Sequence[str]) -> None:
        """Watch these modules, their places, and those of adapters, which may be taken off."""
        parts, kept_out = dict(self.module.named_modules()), stateful(self.module)
        places = (*names, *(name for name, part in parts.items() if id(part) in kept_out))
        around = {outer for name in places for outer in names_around(name)} | {""}
        self._state.watch([parts[name] for name in names], [parts[name] for name in sorted(around)])

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
        if being_compiled():
            raise compiled_whole(self.module)
        return self.memo.call(self.inner, args, kwargs)


class MemoHook(NotInlined):
    """Refuses that a denoiser with a memo is compiled as a whole, past its memo, which it leads to.

    Args:
        memo: the denoiser's memo.
    """

    def __init__(self, memo: TimeMemo) -> None:
        self.memo = memo

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Raise where the module's call was replaced by a compiled one, or is being compiled."""
        if torch.compiler.is_dynamo_compiling() or self.memo.outer.displaced:
            raise compiled_whole(module)


def memo_of(module: nn.Module) -> TimeMemo | None:
    """The memo of a denoiser, None without one."""
    hooks = module._forward_pre_hooks.values()
    return next((hook.memo for hook in hooks if isinstance(hook, MemoHook)), None)
