"""The gate: which run, evaluation and branch a call of the denoiser belongs to, or that it is not ours."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch

from dcache.cache.continued import cut
from dcache.cache.history import Branch
from dcache.engine.call import Call
from dcache.engine.checkpoint import Checkpoint
from dcache.engine.flags import changing, flagged, goes_on
from dcache.engine.protocols import Engine, Owner, Tuned, Tuner
from dcache.identity.branch import condition_of
from dcache.identity.run import Run
from dcache.identity.tracker import RunTracker
from dcache.intercept.effects import Effects
from dcache.intercept.pytree import batch_of, first_tensor, flatten, gpus, signature
from dcache.method import wrong_count
from dcache.predictors.guided_pair import halves_equal

# So many calls that write, without a run, are taken for evaluations; pipelines make few to fill a cache.
_MANY_WRITES = 16


class Beginning(Protocol):
    """Interface: is notified when a call begins."""

    def begin(self, index: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A call begins."""
        ...


class Movable(Protocol):
    """Bound sites, whose modules may be replaced."""

    def moved(self) -> bool:
        """Whether a bound module was replaced since it was bound."""
        ...


class Gated(Engine, Tuned, Protocol):
    """Interface: the part of a session that the gate reads and changes.

    Attributes:
        tracker: tells the run of a call.
        context: name of the branch that the calls to come are for, None where their ordinal tells.
        verified: signatures of which a call was checked.
        writers: signatures of calls that write into their arguments -> whether such a call is an evaluation.
    """

    tracker: RunTracker
    context: str | None
    owners: list[Owner]
    verified: set[Hashable]
    writers: dict[Hashable, bool]
    tuner: Tuner | None

    def open_run(self, run: Run) -> None:
        """A call belongs to another run than the one under way."""
        ...

    @property
    def binding(self) -> Movable:
        """The bound sites."""
        ...

    def rebind(self, sites: Sequence[str]) -> None:
        """Take all intercepts off and bind again."""
        ...


class Gate:
    """Decides what a call is before anything is done with it.

    Args:
        session: the session of the denoiser.
        share: its share in a budget, or None.
        skips_first: the first evaluation of a run is not touched.

    Attributes:
        writes: calls that wrote into their arguments before the run that they were made for was opened.
        said_writes: whether the user was told why such calls are always computed.
    """

    def __init__(self, session: Gated, share: Beginning | None, skips_first: bool) -> None:
        self.session = session
        self.share = share
        self.skips_first = skips_first
        self.writes = 0
        self.said_writes = False

    def admit(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call | None:
        """Find the run, evaluation and branch of a call; None if it must run as it is.

        Raises:
            DcacheError: nothing tells evaluations apart, or the run is longer than the method's table.
        """
        # Called on every predicted step: no function call of ours that is not needed.
        session = self.session
        if session.call is not None or (torch.is_grad_enabled() and self._records_gradients(args, kwargs)):
            return None
        tracker, plain = session.tracker, signature(args, kwargs, numbers := list[Any]())
        mark = flagged(plain, numbers, tracker.time.place, session.state.counters) if numbers else plain
        if session.writers and mark in session.writers:
            self._pass_writer(session.writers[mark], args, kwargs)
            return None
        checkpoint = None if mark in session.verified else Checkpoint(session)
        run = tracker.run_of(args, kwargs)
        if run is not session.state.run:
            self._open(run, args, kwargs)
            mark = flagged(plain, numbers, tracker.time.place)
        elif session.binding.moved():
            # A module replaced in mid-run (a LoRA layer) would compute on placeholders: bind again at once.
            session.rebind(session.method.sites)
        state = session.state
        run.calls += 1
        if run.index >= run.end or (state.limit is not None and run.index >= state.limit):
            self._beyond(run)
            return None
        index = state.last_index = run.index
        condition = condition_of(kwargs)
        manual = tracker.manual
        name = session.context if manual is None or manual.branch is None else manual.branch
        if name is None:
            name = state.names.name(index, condition, state.branches, run.view)
        if self.share is not None:
            self.share.begin(index, args, kwargs)
        branch = state.branches.get(name)
        if branch is None or branch.signature != mark:
            branch = self._start(name, branch, mark, args, kwargs)
        branch.condition = None if condition is None else weakref.ref(condition)
        call = Call(branch, index, run.clock(session.method.clock), run=run)
        if session.method.probe is not None:
            self.look(call, args, kwargs)
        call.observing = branch.signature not in session.verified
        if index == 0 and self.skips_first:
            return None
        if checkpoint is not None and call.observing:
            self._watch(call, checkpoint, args, kwargs)
        for observer in session.observers:
            observer.on_call(call, args, kwargs)
        return call

    def take_back(self, call: Call) -> None:
        """A call failed: one that is made in its place is the same evaluation of the same branch."""
        session = self.session
        if call.run is not None and call.run is session.state.run:
            session.tracker.take_back(call.run)
            session.state.take_back(call.branch, call.index, call.tau)

    def _watch(
        self, call: Call, checkpoint: Checkpoint, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """A first call begins: note everything that it may write into."""
        from dcache.intercept.own_state import OwnState
        from dcache.intercept.snapshot import Snapshot

        call.effects, call.withdraw = Effects(args, kwargs), checkpoint.withdraw
        call.own_state = OwnState(self.session.module)
        call.snapshot = Snapshot(self.session.module, gpus(args, kwargs))

    def count_writes(self, count: int) -> None:
        """Count calls that write into their arguments; before a run they belong to the one that follows."""
        if self.session.state.run is None:
            self.writes += count
            self._say_writes()
        else:
            self._count("writes", count)

    def look(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Create the branch's change indicator if the method has a probe, and show it the input.

        Of the input it sees what the output continues: masks and references that come with it do not change.
        """
        probe, branch = self.session.method.probe, call.branch
        if probe is None:
            return
        branch.indicator = branch.indicator or probe.indicator()
        branch.indicator.now = None
        if probe.where == "input":
            entry = first_tensor(args, kwargs)
            if branch.output is None:
                # Shown again behind the call, for no rule reads the change before there is an anchor.
                call.sample = entry
            if entry is not None:
                self.session.show(call, cut(entry, branch.output))

    def _open(self, run: Run, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A call belongs to another run than the one under way."""
        session = self.session
        session.open_run(run)
        if session.tuner is not None:
            session.tuner.begin(session, run, args, kwargs)
        if self.writes:
            session.state.record.reasons["writes"] = self.writes
            self.writes = 0

    def _say_writes(self) -> None:
        """Warn once where a bare denoiser's loop seems to consist of calls that write: no run opens."""
        if self.writes >= _MANY_WRITES and not self.session.owners and not self.said_writes:
            self.session.warn(
                f"nothing is predicted in {type(self.session.module).__name__}: its calls write into their "
                "arguments (a cache, a generator), so each has to run. Leave that argument out if you can."
            )

    def _beyond(self, run: Run) -> None:
        """Let a call behind the sampler's last step by.

        Such a call writes into a cache of the model's own, or decodes: it is no evaluation.

        Raises:
            DcacheError: the run goes on behind the end of the method's table.
        """
        state = self.session.state
        if not run.over and state.limit is not None:
            raise wrong_count(state.limit, run.index + 1, self.session.method)
        self._count("after_last")

    def _start(
        self, name: str, before: Branch | None, mark: Hashable, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Branch:
        """A branch that is new, or whose calls look otherwise than before, begins without histories."""
        state, method = self.session.state, self.session.method
        if before is not None:
            if goes_on(before, mark, state):
                self.session.verified.add(before.signature)
                return before
            state.note_peak()
            if self.share is not None:
                # A limit holds at any time, also while this call may still be withdrawn.
                before.start_afresh(before.reset)
        # Not the same object emptied: should this call be withdrawn, the branch goes on as it was.
        branch = state.branches[name] = Branch(name, method.predictor.order + 1, mark, began=state.last_index)
        if before is not None:
            branch.reset, branch.changing = "shape", changing(before, mark, state.last_index)
        branch.paired = method.predictor.pairs_halves and self._paired(args, kwargs)
        return branch

    def _pass_writer(self, evaluates: bool, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A call that writes into its arguments: count it; as an evaluation where a sampler says which.

        Args:
            evaluates: whether such calls are evaluations (keys and values extracted in the first one).
            args: positional arguments of the call.
            kwargs: keyword arguments of the call.
        """
        session, tracker = self.session, self.session.tracker
        # As in `Checkpoint.withdraw`: a pipeline's own sampler is no guest once its run is open.
        guest = None if session.owners else tracker.guest.intercept
        samplers = [*tracker.taps, *([] if guest is None else [guest])]
        # A hand-written loop is known by its timesteps, and such calls have one of their own (0, mostly).
        if evaluates and (tracker.manual is not None or any(tap.run is not None for tap in samplers)):
            run = tracker.run_of(args, kwargs)
            if run is not session.state.run:
                self._open(run, args, kwargs)
            run.calls += 1
            session.state.last_index = run.index
            if (
                not run.over
                and session.context is None
                and (tracker.manual is None or tracker.manual.branch is None)
            ):
                # It takes an ordinal, as in the evaluations that follow, where it is a branch like any other.
                session.state.names.name(run.index, condition_of(kwargs), session.state.branches, run.view)
        self.count_writes(1)

    def _count(self, reason: str, count: int = 1) -> None:
        reasons = self.session.state.record.reasons
        reasons[reason] = reasons.get(reason, 0) + count

    def _records_gradients(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call records gradients and must not be touched, in training or elsewhere; said once.

        The module's training mode tells nothing: some pipelines build a denoiser in it and never call `eval`.
        """
        recorded = any(p.requires_grad for p in self.session.module.parameters()) or any(
            isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in flatten((args, kwargs))[0]
        )
        if recorded:
            self._count("gradients")
            self.session.warn(
                "gradients are being recorded: dcache passes the calls through. Use torch.no_grad() to cache."
            )
        return recorded

    def _paired(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether the batch is the same latents twice, as guidance makes it (one sync)."""
        paired = halves_equal(batch_of(args, kwargs))
        # A table for both halves is made for guidance; other predictors serve any batch.
        if not paired and self.session.method.predictor.tabulated:
            self.session.warn(
                f"{self.session.method.describe()} has weights for the two halves of a guided batch, and "
                f"the batch of {type(self.session.module).__name__} is no such two halves: those of their "
                "mean are used for all"
            )
        return paired
