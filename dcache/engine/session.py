"""The session: the only mutable object. It owns all histories and counters of one denoiser module."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import nn

from dcache.cache.history import Branch, bytes_of
from dcache.engine.batched_sums import Together
from dcache.engine.binding import Binding, bind
from dcache.engine.budget import Budget
from dcache.engine.call import Call
from dcache.engine.decisions import Decisions
from dcache.engine.lowering.guidance_math import halves_equal
from dcache.engine.model_call import ModelCall, NamedContext
from dcache.engine.record import Record
from dcache.engine.selfcheck import self_check
from dcache.engine.weight_cache import Lately
from dcache.errors import DcacheError, DcacheWarning
from dcache.identity.branch import BranchNames, condition_of
from dcache.identity.noise_grid import Grid, put
from dcache.identity.run import Run
from dcache.identity.sampler import Listener
from dcache.identity.tracker import Identity
from dcache.intercept.conflicts import compiled_whole, refuse_compiled, refuse_other_cache
from dcache.intercept.method import MethodTap
from dcache.intercept.pytree import copy_containers, first_tensor, signature
from dcache.method import Method
from dcache.predictors.fitted import Fitted
from dcache.sites.streams import Prober
from dcache.stats import Stats


class Session(Listener):
    """Histories, identity and counters of one denoiser.

    Args:
        module: the denoiser.
        method: what to do.
        component: the denoiser's name in its pipeline, "" for a bare module.
        compile_options: arguments of `torch.compile` for the blocks that were found, or None to leave them.
        lowering: "auto", or "replay" for the reference lowering.

    Attributes:
        asked: the method as it was given; `method` may be lowered to stay within the budget.
        budget: the most bytes that it may hold, together with others, or None.
        late: the first evaluation of a run goes by: it is the one in which a denoiser is still being looked
            for (`dcache.identity.detect`), and later runs do as the first.
    """

    def __init__(
        self,
        module: nn.Module,
        method: Method,
        component: str = "",
        compile_options: Mapping[str, Any] | None = None,
        lowering: str = "auto",
    ) -> None:
        self.module = module
        self.asked = self.method = method
        self.budget: Budget | None = None
        self.predictor = method.predictor
        self.component = component
        self.compile_options = compile_options
        self.lowering = lowering
        self.call: Call | None = None
        self.run: Run | None = None
        self.prober = Prober()
        self.branches: dict[str, Branch] = {}
        self.names = BranchNames()
        self.sampler = ""
        self.decisions = Decisions(self)
        self.together = Together(self)
        self.lately = Lately()
        self.identity = Identity(self)
        self.pipes: list[weakref.ref[Any]] = []
        self.checked: set[Any] = set()
        self.warned: set[str] = set()
        self.inside = 0.0
        self.record = Record()
        self.on_open: Callable[[Session, Run], None] | None = None
        self.binding: Binding = bind(self, method.sites)
        self.model_call = ModelCall(module, self)
        self.remake: Callable[[nn.Module], Session] | None = None
        self.gone = False
        self.late = False
        self.last = 0
        self.grid: Grid | None = None
        self.learns = bool(method.sibling)
        self.pairs = isinstance(method.predictor, Fitted) and bool(method.predictor.differences)
        self.peeks = method.probe is not None and method.probe.where == "modulated"
        self._method_taps: list[MethodTap] = []
        try:
            self._install()
        except BaseException:
            self.remove()
            raise

    def begin(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """Say which run, evaluation and branch this call belongs to."""
        run = self.identity.run_of(args, kwargs)
        if run is not self.run:
            self._open(run)
        elif self.binding.moved():
            # A module replaced in mid-run (a LoRA layer) would compute on placeholders: bind again at once.
            self.rebind(self.method.sites)
        run.calls += 1
        index = self.last = run.index
        if self.method.steps is not None and index >= self.method.steps:
            raise self._wrong_count(index + 1)
        told = self.identity.told.branch if self.identity.told is not None else None
        condition = condition_of(kwargs)
        name = told if told is not None else self.names.name(index, condition, self.branches)
        if self.budget is not None:
            self.budget.begin(self, index, args, kwargs)
        branch = self.branches.get(name)
        if branch is None:
            branch = self.branches[name] = Branch(name, self.predictor.order + 1)
        branch.condition = None if condition is None else weakref.ref(condition)
        mark = signature(args, kwargs)
        if branch.signature != mark:
            if branch.signature is not None:
                self.record.peak(self.bytes_now())
                branch.start_afresh("shape")
            branch.signature = mark
            branch.paired = self.pairs and self._paired(args, kwargs)
        call = Call(branch, index, run.clock(self.method.clock))
        if self.method.probe is not None:
            self.gauge(call, args, kwargs)
        call.observing = mark not in self.checked
        return call

    def gauge(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Let the branch have its gauge, where the rule looks at something."""
        probe, branch = self.method.probe, call.branch
        if probe is None:
            return
        branch.gauge = branch.gauge or probe.gauge()
        branch.gauge.now = None
        if probe.where == "input":
            entry = first_tensor(args, kwargs)
            if entry is not None:
                self.decisions.show(call, entry)

    def _paired(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether the batch is the same latents twice, as guidance makes it (one sync)."""
        paired = halves_equal(first_tensor(args, kwargs))
        if not paired:
            self.warn(
                f"{self.method.describe()} has weights for the two halves of a guided batch, and the batch "
                f"of {type(self.module).__name__} is no such two halves: those of their mean are used for all"
            )
        return paired

    def before_run(self) -> None:
        """A sampler is about to open a run: notice what happened to the model since, free the last run."""
        if self.follow():
            return
        self.verify()
        self.end_run()
        self.identity.told = None
        # A guider that died within a call has not said that its turn is over.
        self.names.context = None

    def timed(self, sampler: Any) -> None:
        """Give the sampler the schedule's noise levels, if it has any."""
        if self.method.sigmas:
            self.grid = put(sampler, self.method.sigmas)

    def after_last(self, run: Run) -> bool:
        """The sampler made its last step: the run's end, unless a pipeline will say that it is over."""
        from dcache.engine.pipeline import tells_its_end

        if any(tells_its_end(ref()) for ref in self.pipes):
            # It may do so late or never (Stable Audio's latents); what was remembered is of no more use.
            self.free()
            return False
        if run is self.run:
            self.end_run()
        return True

    def paused(self, run: Run) -> None:
        """Free what a denoiser remembers that is no longer called in the run (the first of Wan 2.2's two)."""
        if self.run is run and self.last < run.index - 1:
            self.free()

    def free(self) -> None:
        """Let go of all histories; what was counted stays, a further call finds nothing to predict from."""
        self.record.peak(self.bytes_now())
        self.branches = {}
        for region in self.binding.regions:
            region.release()
        if self.budget is not None:
            self.budget.forget(self)

    def follow(self) -> bool:
        """Move with a pipeline whose denoiser was replaced; True where nobody is left for this session."""
        from dcache.engine.pipeline import watch_of

        for ref in list(self.pipes):
            watch = watch_of(ref())
            if watch is not None:
                watch.follow(self)
        return self.gone

    def again(self, module: nn.Module) -> Session:
        """A new session that does the same on this module."""
        if self.remake is not None:
            return self.remake(module)
        return Session(module, self.method, self.component, self.compile_options, self.lowering)

    def _open(self, run: Run) -> None:
        self.end_run()
        self.verify()
        self.run = run
        self.sampler = run.sampler
        self.record = Record()
        self.inside = 0.0
        steps = self.method.steps
        if steps is not None and run.count is not None and run.count != steps:
            self.run = None
            raise self._wrong_count(run.count)
        if self.method.sigmas and (self.grid is None or not self.grid.holds):
            self.run = None
            raise DcacheError(
                f"{self.method.describe()} changes the noise levels of the run, and no sampler that dcache "
                "knows of was given them: enable it on the pipeline, before its call, or use the schedule "
                "without them: dataclasses.replace(schedule, sigmas=())"
            )
        if self.on_open is not None:
            self.on_open(self, run)

    def end_run(self) -> None:
        """Free all histories; what was counted stays."""
        self.call = None
        if self.run is None:
            return
        steps = self.run.index + (1 if self.run.calls else 0)
        whole = self.run.count is None or steps >= self.run.count
        self.free()
        if self.grid is not None and whole:
            # In the middle of a run the rest of it goes on with the levels it began with.
            self.grid.restore()
            self.grid = None
        self.record.steps = steps
        self.identity.forget(self.run)
        self.run = None
        self.decisions.together = {}
        self.names.restart()
        record = self.record
        # An interrupted run had no time to predict; its own error is what should be seen.
        # What guidance could not do was said when it was found out.
        told = self.binding.guidance is not None and self.binding.guidance.useless
        called = record.reasons or (record.seconds_compute and not told)
        if whole and self.method.predicts and not record.predicted and called:
            self.warn(
                f"nothing was predicted in this run of {type(self.module).__name__}: "
                f"{self.stats().why_nothing()}"
            )

    def verify(self) -> None:
        """Notice replaced modules, compiled blocks and a compiled model since the last run.

        Raises:
            DcacheError: the whole model, or a block around a site, was compiled, or another cache was
            enabled.
        """
        refuse_other_cache(self.module)
        if self.model_call.displaced:
            refuse_compiled(self.module)
            self.model_call.install()
        if self.binding.stale():
            self.rebind(self.method.sites)
        for intercept in self.binding.intercepts:
            if intercept.displaced:
                intercept.install()
        self.binding.refuse_enclosed()

    def rebind(self, sites: Sequence[str]) -> None:
        """Take all intercepts off and bind again."""
        self.binding.remove()
        self.branches = {}
        self.checked = set()
        self.prober = Prober()
        self.binding = bind(self, sites)
        self.binding.install()

    def fall_back(self, why: str) -> None:
        """Give the sites up for the whole model, and say so."""
        if self.method.probe or self.method.fixed or self.method.corrections is not None:
            # The run ends here, and what was counted of it says nothing.
            self.run = None
            self.branches = {}
            self.remove()
            raise DcacheError(
                f"{self.method.describe()} looks inside {type(self.module).__name__}, and that does not work "
                f"there: {why}. Use a method with sites='model'."
            )
        self.warn(
            f"{type(self.module).__name__}: {why}; the whole model is remembered instead (sites='model')"
        )
        if (self.method.codec or "").startswith("delta"):
            # A model's output need not be of its input's shape.
            codec = "value" + (self.method.codec or "").removeprefix("delta")
            self.method = replace(self.method, codec=codec)
        self.rebind(("model",))

    def pass_through(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
        """Why this call must not be touched, or None."""
        if self.module.training:
            self.warn(
                f"{type(self.module).__name__} is in training mode: dcache passes its calls through. Call "
                ".eval() on it to cache."
            )
            return "training"
        if torch.is_grad_enabled() and (
            any(p.requires_grad for p in self.module.parameters())
            or any(isinstance(v, torch.Tensor) and v.requires_grad for v in (*args, *kwargs.values()))
        ):
            self.warn(
                "gradients are being recorded: dcache passes the calls through. Use torch.no_grad() to cache."
            )
            return "gradients"
        return None

    def _passes_by(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call is passed through; the reason is counted."""
        why = self.pass_through(args, kwargs)
        if why is not None:
            self.record.reasons[why] = self.record.reasons.get(why, 0) + 1
        return why is not None

    def denoise(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The denoiser's call."""
        began = perf_counter()
        if self.call is not None:
            return inner(*args, **kwargs)
        if (torch.is_grad_enabled() or self.module.training) and self._passes_by(args, kwargs):
            return inner(*args, **kwargs)
        call = self.begin(args, kwargs)
        if self.late and call.index == 0:
            return inner(*args, **kwargs)
        kept = None
        if call.observing or (self.budget is not None and not call.branch.settled):
            kept = (copy_containers(args), copy_containers(kwargs))
            call.counts = self.record.counts()
        if call.observing:
            self.binding.observe()
        self.call = call
        try:
            # A predicted step is a matter of microseconds: no call of ours that is not needed.
            around = self.binding.whole or self.binding.guidance
            if around is not None:
                output, spent = around.run(call, inner, args, kwargs)
            else:
                before = perf_counter()
                output = inner(*args, **kwargs)
                spent = perf_counter() - before
            if call.entered:
                raise DcacheError(
                    f"{type(self.module).__name__}: a run of blocks was entered and its last block never "
                    "called (skip-layer guidance?), so the prediction had nowhere to go. Choose a run "
                    "that ends before the blocks that are skipped, or sites='model'."
                )
            self.check(call, output, inner, kept)
            if self.budget is not None and call.computed:
                self.budget.settle(self, call, inner, kept)
        finally:
            self.call = None
            if self.together.call is not None:
                self.together.rest()
            if kept is not None:
                self.prober.rest()
        total = perf_counter() - began
        self.inside += total - spent if kept is None else 0.0
        self.record.call(total, call.predicted > 0)
        return output

    def check(self, call: Call, output: Any, inner: Callable[..., Any], kept: Any) -> None:
        """A call was computed or predicted: check what was understood of the model, the first time.

        Args:
            call: the call.
            output: what it returned.
            inner: the denoiser's own call.
            kept: (args, kwargs) as they were before it, where something is to be checked.
        """
        branch = call.branch
        if branch.gauge is not None:
            branch.gauge.settle(call.computed > 0, output)
        if call.computed:
            branch.reset = ""
        incomplete = self.budget is not None and self.budget.short
        if call.observing and kept is not None and not incomplete:
            problem = self.binding.settle() or self_check(self, call, inner, kept, output)
            if problem:
                self.fall_back(problem)
            else:
                self.binding.check_corrections()
                self.checked.add(branch.signature)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Calls of the denoiser's parts are nobody's business meanwhile."""
        call, self.call = self.call, None
        try:
            yield
        finally:
            self.call = call

    def stepped(self, mixed: torch.Tensor) -> None:
        """The sampler is given this."""
        if self.binding.guidance is not None:
            self.binding.guidance.learn(mixed)

    def bytes_now(self) -> int:
        """Bytes of the storages all histories hold."""
        return bytes_of(t for branch in self.branches.values() for t in branch.tensors())

    def stats(self) -> Stats:
        """What the run under way, or the last one, did."""
        now = self.bytes_now()
        steps = self.run.index + (1 if self.run.calls else 0) if self.run is not None else self.record.steps
        return self.record.stats(steps, now, self.run is not None, self.inside, self.method.describe())

    def warn(self, text: str) -> None:
        """Warn once per session and text."""
        if text not in self.warned:
            self.warned.add(text)
            warnings.warn(text, DcacheWarning, stacklevel=2)

    def remove(self) -> None:
        """Take everything off the module and its samplers."""
        self.gone = True
        self.binding.remove()
        self.model_call.remove()
        for method_tap in self._method_taps:
            method_tap.remove()
        self.identity.leave()
        # Last, for it may warn, and warnings may be errors.
        self.end_run()

    def _install(self) -> None:
        self.model_call.install()
        self.binding.install()
        self._method_taps = [MethodTap(self.module, "compile", self._compile)]
        if hasattr(type(self.module), "cache_context"):
            self._method_taps.append(MethodTap(self.module, "cache_context", self._cache_context))
        for method_tap in self._method_taps:
            method_tap.install()

    def _compile(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        if owner is self.module:
            raise compiled_whole(self.module)
        return original(*args, **kwargs)

    def _cache_context(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        context = original(*args, **kwargs)
        if owner is not self.module:
            return context
        name = args[0] if args else kwargs.get("name")
        return NamedContext(self, context, str(name))

    def _wrong_count(self, count: int) -> DcacheError:
        return DcacheError(
            f"this schedule is for {self.method.steps} evaluations and the run has {count} or more. Use "
            "the schedule's own number of steps, or Schedule.load(path).stretch(steps); second-order "
            "samplers evaluate more than once per step."
        )


def session_of(module: nn.Module) -> Session | None:
    """The session of a module, if caching is enabled on it."""
    found = module.__dict__.get("_compiled_call_impl")
    if isinstance(found, ModelCall):
        return found.session
    # Somebody took the slot since; the next run notices.
    tapped = module.__dict__.get("compile")
    owner = getattr(tapped.around, "__self__", None) if isinstance(tapped, MethodTap) else None
    return owner if isinstance(owner, Session) and owner.module is module else None
