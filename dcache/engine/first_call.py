"""After a call: whether it wrote into its arguments, and whether its sites can be predicted at all.

Both are asked of the first call of each signature. One that writes is withdrawn, and its like are computed
from then on. One whose sites cannot be predicted makes the session fall back to the whole model; what it
returned is remembered as the whole model's, so that this run is like those that follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch

from dcache.cache.continued import cut
from dcache.engine.binding import Binding
from dcache.engine.call import Call
from dcache.engine.gate import Gate
from dcache.engine.lowering.blocks import RunRegion
from dcache.engine.memory import SessionMemory
from dcache.engine.protocols import Engine
from dcache.engine.selfcheck import never_left, self_check
from dcache.errors import DcacheError
from dcache.intercept.effects import once_more
from dcache.intercept.pytree import flatten, gpus, unpredictable

if TYPE_CHECKING:
    from dcache.intercept.own_state import OwnState

Withdraw = Callable[[Call, bool], bool]


class Checked(Engine, Protocol):
    """Interface: the part of a session that `CallCheck` reads and changes."""

    verified: set[Hashable]
    writers: dict[Hashable, bool]
    removed: bool
    binding: Binding
    gate: Gate

    @property
    def memory(self) -> SessionMemory | None:
        """The share in a budget, or None."""
        ...

    def rebind(self, sites: Sequence[str]) -> None:
        """Take all intercepts off and bind again."""
        ...

    def resting(self) -> AbstractContextManager[None]:
        """Inside this block, intercepts pass calls through untouched."""
        ...

    def remove(self) -> None:
        """Take everything off the module."""
        ...


class CallCheck:
    """Looks at every call of one session once it is over.

    Args:
        session: the session.
    """

    def __init__(self, session: Checked) -> None:
        self.session = session

    def withdrawn(self, call: Call, output: Any, inner: Callable[..., Any], arguments: Any) -> bool:
        """Whether a first call is none to predict: it wrote somewhere, or returned no sample.

        It is forgotten then, with everything that was remembered of it. Arguments are those of `check`.
        """
        effects, own_state, withdraw = call.effects, call.own_state, call.withdraw
        # They hold the arguments, and what other branches remember.
        call.effects = call.own_state = call.withdraw = None
        session = self.session
        if effects is None or withdraw is None or session.removed:
            return False
        leaves = flatten(output)[0]
        sampled = bool(leaves) and leaves[0] is not None
        wrote = effects.written()
        # Only a call that can be made once more tells that; one that wrote is withdrawn as it is.
        into_itself = (
            own_state is not None and not wrote and self._adds_to_itself(own_state, inner, arguments)
        )
        if sampled and not wrote and not into_itself and not call.makes:
            if isinstance(leaves[0], torch.Tensor) and unpredictable(leaves[1:]):
                # Whether its sites can be predicted all the same the check will tell.
                call.withdraw = withdraw
            return False
        reason = (
            "its arguments have too many parts to see which of them a call writes into"
            if not effects.complete
            else "one of its arguments is a function, and what that does in a call cannot be seen"
            if effects.calls_back
            else "one of its arguments is an iterator, and what a call takes from it cannot be put back"
            if effects.iterates
            else "each call writes into the model itself, and a prediction would not"
            if into_itself
            else ""
        )
        self._withdraw(call, withdraw, sampled, reason or _makes(call.makes))
        return True

    def _withdraw(self, call: Call, withdraw: Withdraw, sampled: bool, reason: str) -> None:
        """Forget a call, and compute its like from now on.

        Args:
            call: the call.
            withdraw: its `Call.withdraw`.
            sampled: whether the model returned a sample.
            reason: what is said of it, "" for nothing.
        """
        session, state = self.session, self.session.state
        if reason:
            session.warn(f"{type(session.module).__name__}: {reason}, so such calls are always computed")
            session.gate.said_writes = True
        session.writers[call.branch.signature] = withdraw(call, sampled)
        # A run that only this call seemed to open is none; what was counted into it belongs to the next.
        lost = 0 if session.state is state else state.record.reasons.get("writes", 0)
        for region in session.binding.storing():
            region.release()
        if session.binding.guidance is not None:
            session.binding.guidance.withdraw(call)
        if session.memory is not None:
            session.memory.withdraw()
        session.gate.count_writes(1 + lost)

    def check(self, call: Call, output: Any, inner: Callable[..., Any], arguments: Any) -> Call:
        """A call is over: the first of each signature checks what was understood of the model.

        Args:
            call: the call.
            output: what it returned.
            inner: the denoiser's own call.
            arguments: (args, kwargs) as they were before it, where something is to be checked.

        Returns:
            The call, or the one that stands for it where the session fell back to the whole model.

        Raises:
            DcacheError: a run of blocks was entered and not left, or the method looks inside the model.
        """
        session, branch = self.session, call.branch
        checks = call.observing and arguments is not None
        # Caching that is taken off in a computed run of blocks lets the rest of them compute.
        if call.entered and (call.predicted or not session.removed) and not (checks and self._repeats()):
            raise never_left(session.module, call.entered)
        if branch.indicator is not None:
            self._show_sample(call, output)
            branch.indicator.end_step(call.computed > 0, output)
        reset = branch.reset
        if call.computed:
            branch.reset = ""
        incomplete = session.memory is not None and session.memory.short
        if not checks or incomplete or session.removed:
            if branch.indicator is not None:
                # What the indicator compares with may take less after the next call.
                session.state.note_peak()
            if call.problem and not session.removed:
                return self._given_up(call, call.problem, reset, arguments, output)
            return call
        differs, texts = session.binding.confirm()
        for text in texts:
            session.warn(text)
        problem = self._once_only(call)
        withdraw, call.withdraw = call.withdraw, None
        if differs and not problem:
            # Few first calls come to it.
            from dcache.engine.recompute import computed_again

            call = computed_again(session, call, reset, inner, arguments, output)
        problem = problem or call.problem or session.binding.settle()
        if problem is None and session.binding.whole is None and session.binding.frames is None:
            problem = self_check(session, list(session.binding.storing()), call, inner, arguments, output)
        if problem and withdraw is not None:
            # What it made was not made in the replay: a cache for the calls that follow.
            self._withdraw(call, withdraw, True, _makes(unpredictable(flatten(output)[0][1:])))
            return call
        if problem:
            call = self._given_up(call, problem, reset, arguments, output)
        else:
            session.binding.check_corrections()
        session.verified.add(branch.signature)
        return call

    def fall_back(self, why: str) -> None:
        """Give the sites up for the whole model, and say so.

        Raises:
            DcacheError: the method makes no sense on the whole model; caching is taken off.
        """
        session = self.session
        name, method = type(session.module).__name__, session.method
        if method.probe or method.fixed or method.corrections is not None:
            # The run ends here, and what was counted of it says nothing.
            session.state.run = None
            session.state.branches = {}
            session.remove()
            raise DcacheError(
                f"{method.describe()} looks inside {name}, and that does not work there: {why}. Use a method "
                "with sites='model'."
            )
        session.warn(f"{name}: {why}; the whole model is remembered instead (sites='model')")
        session.method = method.for_whole_model()
        session.rebind(("model",))

    def _given_up(self, call: Call, why: str, reset: str, arguments: Any, output: Any) -> Call:
        """Fall back to the whole model after a call; returns the call that stands for it."""
        self.fall_back(why)
        if arguments is None:
            # A later call than the first: its arguments may have been written over.
            state = self.session.state
            state.record.events.clear()
            state.untraced = f"its sites were given up at evaluation {call.index}"
            return call
        return self._as_whole_model(call, reset, arguments, output)

    def _show_sample(self, call: Call, output: Any) -> None:
        """Show the probe the part of the first call's input that the output turned out to continue."""
        branch, sample, indicator = call.branch, call.sample, call.branch.indicator
        call.sample = None
        if branch.output is None:
            branch.output = next((x.shape for x in flatten(output)[0] if isinstance(x, torch.Tensor)), None)
        if indicator is not None and sample is not None and cut(sample, branch.output) is not sample:
            indicator.now = None
            self.session.show(call, cut(sample, branch.output))

    def _as_whole_model(self, call: Call, reset: str, arguments: Any, output: Any) -> Call:
        """Remember a call that was computed under other sites as one of the whole model.

        Args:
            call: the call.
            reset: why its branch had been emptied before it, "" if it had not.
            arguments: (args, kwargs) as they were before it.
            output: what it returned.
        """
        session, before = self.session, call.branch
        state, whole = session.state, session.binding.whole
        if whole is None:
            return call
        # Rows of sites that are bound no more are no part of the run's trace.
        state.record.events.clear()
        if call.counts is not None:
            state.record.recount(call.counts)
        branch = before.emptied(session.method.predictor.order + 1, reset)
        state.branches[branch.name] = branch
        state.shared.clear()
        session.call = adopted = Call(branch, call.index, call.tau, run=call.run, counts=call.counts)
        args, kwargs = arguments
        whole.adopt(adopted, args, kwargs, output)
        branch.reset = ""
        return adopted

    def _adds_to_itself(self, before: OwnState, inner: Callable[..., Any], arguments: Any) -> bool:
        """Whether each call writes into the model, so that what it holds depends on every call before."""
        session = self.session
        if not before.written():
            return False

        def again() -> None:
            with once_more(arguments) as (args, kwargs, _):
                inner(*args, **kwargs)

        from dcache.intercept.snapshot import Snapshot

        now = Snapshot(session.module, gpus(*arguments))
        if now.iterates:
            return True
        with session.resting():
            try:
                return before.adds(again)
            finally:
                now.restore()

    def _once_only(self, call: Call) -> str | None:
        """Why a call whose sites lie in the model cannot be made once more, to check them; None if it can."""
        if self.session.binding.whole is not None or call.snapshot is None or not call.snapshot.iterates:
            return None
        return "it holds an iterator, so that no call can be made once more to check what was understood"

    def _repeats(self) -> bool:
        """Whether a block of a run was called more than once, which `Binding.settle` has words for."""
        runs = [region for region in self.session.binding.storing() if isinstance(region, RunRegion)]
        return any(len(set(region.order)) < len(region.order) for region in runs)


def _makes(what: str) -> str:
    return f"a call of it returns {what}" if what else ""
