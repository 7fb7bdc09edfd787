"""The session: what caching is on one denoiser module. It is the only object that changes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
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
from dcache.engine.gate import Gate
from dcache.engine.lanes import Lanes
from dcache.engine.lifecycle import Lifecycle
from dcache.engine.memory import SessionMemory
from dcache.engine.observe import Observer
from dcache.engine.protocols import Owner
from dcache.engine.region import Region
from dcache.engine.run_state import RunState
from dcache.engine.selfcheck import self_check
from dcache.engine.weight_cache import WeightCache
from dcache.errors import DcacheError, DcacheWarning
from dcache.identity.tracker import RunTracker
from dcache.intercept.conflicts import refuse_other_cache
from dcache.intercept.pytree import copy_containers
from dcache.sites.streams import StreamTracer
from dcache.stats import Stats

# What refers to the session and is referred to by it.
_PARTS = [
    "attachment",
    "batched",
    "decisions",
    "end_run",
    "free",
    "gate",
    "lanes",
    "lifecycle",
    "look",
    "memory",
    "open_run",
    "predicts",
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
        self.warned: set[str] = set()
        self.removed = False
        self.several_sites = False
        self.depth = 0
        self.tracer = StreamTracer()
        self.weight_cache = WeightCache()
        self.decisions = Decisions(self)
        self.predicts, self.show = self.decisions.predicts, self.decisions.show
        self.batched = BatchedSums(self.decisions, self._summable)
        self.memory = None if config.budget is None else SessionMemory(self, config.budget)
        self.lifecycle = Lifecycle(self)
        self.tracker = RunTracker(module, self.lifecycle, self.owners)
        self.free, self.open_run, self.end_run = self.lifecycle.free, self.lifecycle.open, self.lifecycle.end
        self.gate = Gate(self, self.memory, config.skips_first)
        self.look = self.gate.look
        self.attachment = Attachment(module, self)
        try:
            self.binding: Binding = self._bound(self.method.sites)
        except BaseException:
            self._let_go()
            raise
        try:
            self.attachment.install()
            self.binding.install()
            for text in config.differences_of_module(module):
                self.warn(text)
        except BaseException:
            self.remove()
            raise

    @property
    def component(self) -> str:
        """The denoiser's name in its pipeline, "" for a bare module."""
        return self.config.component

    @property
    def guidance(self) -> float | None:
        """The guidance scale of the last call, where a pipeline keeps it."""
        return next((g for owner in self.owners if (g := owner.guidance) is not None), None)

    def denoise(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The denoiser's call: predicted where the method lets it, computed and remembered elsewhere."""
        began = perf_counter()
        call = self.gate.admit(args, kwargs)
        if call is None:
            return inner(*args, **kwargs)
        kept = None
        if call.observing or (self.memory is not None and not call.branch.settled):
            kept = (copy_containers(args), copy_containers(kwargs))
            call.counts = self.state.record.counts()
        if call.observing:
            self.binding.observe()
        state, self.call = self.state, call
        try:
            # A predicted step is a matter of microseconds: no call of ours that is not needed.
            around = self.binding.whole or self.binding.guidance
            if around is not None:
                output, spent = around.run(call, inner, args, kwargs)
            else:
                before = perf_counter()
                output = inner(*args, **kwargs)
                spent = perf_counter() - before
            for observer in self.observers:
                observer.on_output(call, output)
            self.check(call, output, inner, kept)
            if self.memory is not None and call.computed and not self.removed:
                self.memory.settle(call, inner, kept)
        finally:
            self.call = None
            if self.removed:
                self._let_go()
            else:
                if self.batched.call is not None:
                    self.batched.end_call()
                if kept is not None:
                    self.tracer.end_call()
        total = perf_counter() - began
        state.overhead_seconds += total - spent if kept is None else 0.0
        state.record.call(total, call.predicted > 0)
        return output

    def check(self, call: Call, output: Any, inner: Callable[..., Any], kept: Any) -> None:
        """A call is over: the first of each signature checks what was understood of the model.

        Args:
            call: the call.
            output: what it returned.
            inner: the denoiser's own call.
            kept: (args, kwargs) as they were before it, where something is to be checked.
        """
        # Caching that is taken off in a computed run of blocks lets the rest of them compute.
        if call.entered and (call.predicted or not self.removed):
            raise _never_left(self.module)
        branch = call.branch
        if branch.indicator is not None:
            branch.indicator.end_step(call.computed > 0, output)
        if call.computed:
            branch.reset = ""
        incomplete = self.memory is not None and self.memory.short
        if not call.observing or kept is None or incomplete or self.removed:
            if branch.indicator is not None:
                # What the indicator compares with may take less after the next call.
                self.state.note_peak()
            return
        problem = self.binding.settle()
        if problem is None and self.binding.whole is None:
            problem = self_check(self, list(self.binding.storing()), call, inner, kept, output)
        if problem:
            self.fall_back(problem)
        else:
            self.binding.check_corrections()
            self.verified.add(branch.signature)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Inside this block, intercepts pass calls through untouched."""
        call, self.call = self.call, None
        try:
            yield
        finally:
            self.call = call

    def stats(self) -> Stats:
        """What the run under way, or the last one, did."""
        return self.lanes.shown().stats(self.method.describe())

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

    def fall_back(self, why: str) -> None:
        """Give the sites up for the whole model, and say so.

        Raises:
            DcacheError: the method makes no sense on the whole model; caching is taken off.
        """
        name = type(self.module).__name__
        if self.method.probe or self.method.fixed or self.method.corrections is not None:
            # The run ends here, and what was counted of it says nothing.
            self.state.run = None
            self.state.branches = {}
            described = self.method.describe()
            self.remove()
            raise DcacheError(
                f"{described} looks inside {name}, and that does not work there: {why}. Use a method with "
                "sites='model'."
            )
        self.warn(f"{name}: {why}; the whole model is remembered instead (sites='model')")
        self.method = self.method.for_whole_model()
        self.rebind(("model",))

    def remove(self) -> None:
        """Take everything off the module and its samplers; another thread's call is waited for."""
        with self.lanes.here():
            self._remove()

    def _remove(self) -> None:
        self.removed = True
        self.binding.remove()
        self.attachment.remove()
        self.tracker.leave()
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


def _never_left(module: nn.Module) -> DcacheError:
    return DcacheError(
        f"{type(module).__name__}: a run of blocks was entered and its last block never called (skip-layer "
        "guidance?), so the prediction had nowhere to go. Choose a run that ends before the blocks that are "
        "skipped, or sites='model'."
    )
