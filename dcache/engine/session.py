"""The session: what caching is on one denoiser module. It is the only object that changes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

from torch import nn

from dcache.engine.attachment import Attachment, denoiser_of
from dcache.engine.batched_sums import BatchedSums
from dcache.engine.bind import bind
from dcache.engine.binding import Binding
from dcache.engine.call import Call
from dcache.engine.config import SessionConfig
from dcache.engine.decisions import Decisions
from dcache.engine.first_call import CallCheck
from dcache.engine.gate import Gate
from dcache.engine.lanes import Lanes
from dcache.engine.lifecycle import Lifecycle
from dcache.engine.memory import SessionMemory
from dcache.engine.observe import Observer
from dcache.engine.protocols import Owner
from dcache.engine.region import Region
from dcache.engine.run_state import RunState
from dcache.engine.weight_cache import WeightCache
from dcache.errors import DcacheWarning
from dcache.identity.tracker import RunTracker
from dcache.intercept.conflicts import active_dropout, refuse_other_cache
from dcache.intercept.module_call import compiled_inside
from dcache.intercept.pytree import copy_containers
from dcache.method import Method
from dcache.sites.streams import StreamTracer
from dcache.stats import Stats
from dcache.util.modules import modules_of

# What refers to the session and is referred to by it.
_PARTS = [
    "attachment",
    "batched",
    "call_check",
    "check",
    "decisions",
    "end_run",
    "fall_back",
    "free",
    "gate",
    "lifecycle",
    "look",
    "memory",
    "open_run",
    "predicts",
    "reset",
    "show",
    "tracker",
]


class Session:
    """Caching on one denoiser.

    Args:
        module: the denoiser.
        config: what `enable` decided.

    Attributes:
        method, requested: the method as it is now (perhaps lowered) and as it was asked for.
        state: the run under way, or the last one.
        owners: the pipelines that the denoiser is part of.
        context: name of the branch that the calls to come are for, None where their ordinal tells.
        verified: signatures of which a call was checked.
        writers: signatures of calls that write into their arguments -> whether such a call is an evaluation.
        removed: whether caching was taken off.

    Raises:
        DcacheError: the method does not fit the denoiser; nothing is installed then.
    """

    def __init__(self, module: nn.Module, config: SessionConfig) -> None:
        self.module = module
        self.config = config
        self.requested = self.method = config.method
        self.call: Call | None = None
        self.state = RunState()
        self.lanes = Lanes(self)
        self.context: str | None = None
        self.owners: list[Owner] = []
        self.observers: list[Observer] = []
        self.verified: set[Hashable] = set()
        self.writers: dict[Hashable, bool] = {}
        self.warned: set[str] = set()
        self.removed = False
        self.tuner = config.tuner
        self.several_sites, self.depth = False, 0
        self.tracer = StreamTracer()
        self.weight_cache = WeightCache()
        self.decisions = Decisions(self)
        self.predicts, self.show = self.decisions.predicts, self.decisions.show
        self.batched = BatchedSums(self.decisions, self._summable)
        self.memory = None if config.budget is None else SessionMemory(self, config.budget)
        self.lifecycle = Lifecycle(self)
        self.tracker = RunTracker(module, self.lifecycle, self.owners)
        self.free, self.open_run, self.end_run = self.lifecycle.free, self.lifecycle.open, self.lifecycle.end
        self.reset = self.lifecycle.reset
        self.gate = Gate(self, self.memory, config.skips_first)
        self.look = self.gate.look
        self.call_check = CallCheck(self)
        self.check, self.fall_back = self.call_check.check, self.call_check.fall_back
        self.attachment = Attachment(module, self)
        try:
            self.binding: Binding = self._bound(self.method.sites)
        except BaseException:
            self._let_go()
            raise
        try:
            self._install()
        except BaseException:
            self.remove()
            raise

    def _install(self) -> None:
        """Install everything. A call in another thread waits meanwhile: it would install the rest itself."""
        with self.lanes.lock:
            self.attachment.install(self.config.budget)
            self.binding.install()
        for text in self.config.differences_of_module(self.module):
            self.warn(text)

    @property
    def component(self) -> str:
        """The denoiser's name in its pipeline, "" for a bare module."""
        return self.config.component

    @property
    def guidance(self) -> float | None:
        """The guidance scale of the last call, where a pipeline keeps it or was seen to be given it."""
        known = next((g for owner in self.owners if (g := owner.guidance) is not None), None)
        return self.lanes.shown().guidance if known is None else known

    @property
    def compiled(self) -> bool:
        """Whether blocks of the denoiser are compiled."""
        return self.binding.compile_options is not None or any(map(compiled_inside, modules_of(self.module)))

    def adopt(self, method: Method) -> None:
        """Use another method with the same sites from the next call on."""
        if method is not self.method:
            self.method = method
            for region in self.binding.storing():
                region.predictor = method.predictor.at(region.site.name)

    def denoise(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The denoiser's call: predicted where the method lets it, computed and remembered elsewhere."""
        began = perf_counter()
        gate = self.gate
        call = gate.admit(args, kwargs)
        if call is None:
            return inner(*args, **kwargs)
        repeats = call.observing or (self.memory is not None and not call.branch.settled)
        arguments = self._prepare(call, args, kwargs) if repeats else None
        state, self.call = self.state, call
        state.failed = False
        try:
            # A predicted step is a matter of microseconds: no call of ours that is not needed.
            around = self.binding.whole or self.binding.guidance or self.binding.frames
            if around is not None:
                output, spent = around.run(call, inner, args, kwargs)
            else:
                before = perf_counter()
                output = inner(*args, **kwargs)
                spent = perf_counter() - before
            for observer in self.observers:
                observer.on_output(call, output)
            if call.effects is not None and self.call_check.withdrawn(call, output, inner, arguments):
                return output
            call = self.check(call, output, inner, arguments)
            if self.memory is not None and call.computed and not self.removed:
                self.memory.settle(call, inner, arguments)
        except BaseException:
            gate.take_back(call)
            raise
        finally:
            # Regions know their last call, which must not keep its arguments.
            self.call = call.effects = call.own_state = call.withdraw = call.sample = call.snapshot = None
            if self.removed:
                self._let_go()
            else:
                if self.batched.call is not None:
                    self.batched.end_call()
                if arguments is not None:
                    self.tracer.end_call()
        total = perf_counter() - began
        state.overhead_seconds += total - spent if arguments is None else 0.0
        state.record.call(total, call.predicted > 0)
        return output

    def _prepare(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before a call that may be made once more: the arguments as they are, for the model may pop some."""
        call.counts = self.state.record.counts()
        if call.observing:
            self.binding.observe()
        return copy_containers(args), copy_containers(kwargs)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Inside this block, intercepts pass calls through untouched."""
        call, self.call = self.call, None
        try:
            yield
        finally:
            self.call = call

    def stats(self) -> Stats:
        """Counts, bytes and seconds of the run under way, or of the last one."""
        state = self.lanes.shown()
        stats, gate = state.stats(self.method.describe()), vars(self).get("gate")
        if self.binding.frames is not None:
            self.binding.frames.add_shared(stats)
        if gate is None or not gate.writes or state.run is not None or state.record.events:
            return stats
        # No run was opened, and these calls are all that there was.
        return replace(stats, reasons={**stats.reasons, "writes": gate.writes})

    def warn(self, text: str) -> None:
        """Warn once per session and text."""
        if text not in self.warned:
            self.warned.add(text)
            warnings.warn(text, DcacheWarning, stacklevel=2)

    def verify(self) -> None:
        """Notice replaced modules, compiled blocks and a compiled model since the last run.

        Raises:
            DcacheError: the whole model, or a block around a site, was compiled, or another cache was
                enabled.
        """
        refuse_other_cache(self.module)
        for text in active_dropout(self.module):
            self.warn(text)
        self.attachment.verify()
        if self.binding.stale():
            self.rebind(self.method.sites)
        self.binding.reinstall()
        self.binding.refuse_enclosed()

    def rebind(self, sites: Sequence[str]) -> None:
        """Take all intercepts off and bind again."""
        self.binding.remove()
        self.state.branches = {}
        self.verified = set()
        self.tracer = StreamTracer()
        self.binding = self._bound(sites)
        self.binding.install()

    def remove(self) -> None:
        """Take everything off the module and its samplers; another thread's call is waited for."""
        with self.lanes.here():
            if not self.removed:
                self.removed = True
                self._remove()

    def _remove(self) -> None:
        self.binding.remove()
        self.attachment.remove()
        self.tracker.leave()
        if self.tuner is not None:
            self.tuner.detach()
        inside = self.call is not None
        try:
            # Last, for it may warn, and warnings may be errors.
            self.end_run()
        finally:
            self.binding.clear()
            if not inside:
                self._let_go()

    def _let_go(self) -> None:
        """Break the circles between the session and its parts, so that all are freed without a collector."""
        self.owners.clear()
        self.lanes.clear()
        for part in _PARTS:
            vars(self).pop(part, None)

    def _summable(self) -> Sequence[Region]:
        return self.binding.summable()

    def _bound(self, sites: Sequence[str]) -> Binding:
        binding = bind(self, sites, self.config.compile_options, self.config.lowering == "replay")
        self.several_sites, self.depth = len(binding.regions) > 1, len(binding.structure.blocks)
        return binding


def session_of(module: nn.Module) -> Session | None:
    """The session of a module, if caching is enabled on it."""
    denoiser = denoiser_of(module)
    return denoiser if isinstance(denoiser, Session) else None
