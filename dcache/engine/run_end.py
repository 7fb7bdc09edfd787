"""How a run ended, and what follows from it: the length that later ones are taken to have, and warnings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from dcache.engine.binding import Binding
from dcache.engine.run_state import RunState
from dcache.identity.run import Run
from dcache.identity.tracker import RunTracker
from dcache.method import Method

# So many runs in a row that break off early are taken for loops that take turns.
TURNS = 3


class Ending(Protocol):
    """Interface: the part of a session that the end of a run is about."""

    module: nn.Module
    method: Method
    binding: Binding
    tracker: RunTracker

    def warn(self, text: str) -> None:
        """Warn once per session and text."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        expected: evaluations that it was taken to have, None where nothing said that.
        lasted: evaluations that it had.
        whole: whether it came to its end, as far as that is known.
        unstepped: whether its sampler's `step` was not called, so that all of its calls count as one.
        relists: whether later runs with its sampler's table are to be taken for as long as it was.
        teaches: whether it shows how long runs with its timesteps are, which no table lists.
        brief: whether it is of unknown length, and had no more than one evaluation: that is all that is seen
            of a loop where others take turns.
    """

    expected: int | None
    lasted: int
    whole: bool
    unstepped: bool
    relists: bool
    teaches: bool
    brief: bool


def outcome_of(state: RunState, run: Run, whole: bool, learns: bool, returns: bool) -> Outcome:
    """How a run ends that is under way.

    Args:
        state: what was counted of it.
        run: the run.
        whole: whether it is known to have come to its end; else its length tells.
        learns: whether its pipeline's call is over: later runs with the same table are taken for as long.
        returns: whether that call reached its end.
    """
    lasted, expected = state.steps, run.count
    # ParaDiGMS steps several evaluations at once, by a method of its own.
    unstepped = whole and returns and not run.index and run.calls > 1 and bool(run.entries)
    # An evaluation that no step ended is none that came to its end.
    whole = whole and (not run.calls or run.over or unstepped)
    interrupted = (learns and not whole) or state.failed
    # One that was left and went on at a later evaluation has no length of its own.
    from_start = lasted > 0 and (not run.told or 0 in run.told)
    return Outcome(
        expected=expected,
        lasted=lasted,
        whole=whole or (not state.failed if expected is None else lasted >= expected),
        unstepped=unstepped,
        relists=learns and whole and not unstepped and bool(run.entries) and 0 < lasted != expected,
        teaches=expected is None and from_start and not interrupted,
        brief=expected is None and len(state.record.evaluations()) < 2,
    )


class RunEnd:
    """Learns from the runs of one session that are over, and warns where they predicted nothing.

    Args:
        session: the session.
    """

    def __init__(self, session: Ending) -> None:
        self.session = session
        # Runs in a row that broke off.
        self._broken_off = 0

    def settle_doubted(self, state: RunState) -> None:
        """The run before this one, which might have been one with it, was a run of its own after all."""
        if state.doubted is None:
            return
        before, lone = state.doubted
        state.doubted = None
        if not (before.failed or self.learn_unlisted(before, lone, before.steps)):
            self.conclude(before, whole=True, brief=True)

    def learn(self, state: RunState, run: Run, outcome: Outcome, doubtful: bool) -> None:
        """Learn how long later runs are, and say what there is to say of this one.

        Args:
            state: what was counted of it.
            run: the run, which is over.
            outcome: how it ended.
            doubtful: whether a run opens that may be this one, gone on.
        """
        if outcome.relists and outcome.expected is not None:
            self.learn_listed(run, outcome.expected, outcome.lasted)
        elif doubtful or (outcome.teaches and self.learn_unlisted(state, run, outcome.lasted)):
            return
        if outcome.unstepped and self.session.method.predicts:
            self.warn_unstepped(state, run)
        # One that an exception ended broke off for that, and not for loops that take turns.
        if outcome.whole or not state.failed:
            self.conclude(state, outcome.whole, outcome.brief)

    def learn_listed(self, run: Run, expected: int, lasted: int) -> None:
        """Learn that a run had another length than the sampler's table lists.

        Args:
            run: the run.
            expected: evaluations that it was taken to have.
            lasted: evaluations that it had.
        """
        method = self.session.method
        self.session.tracker.learn(run, lasted)
        if method.predicts and method.steps is None:
            self.session.warn(
                f"the sampler's table listed {expected} evaluations and the run had {lasted}: rules that "
                "count from the end (last=True, shares of the run) were off in it. Later runs with this "
                f"table are taken to have {lasted}."
            )

    def learn_unlisted(self, state: RunState, run: Run, lasted: int) -> bool:
        """Learn the length of a run that no table lists; whether that was said of it."""
        session = self.session
        computed = state.record.reasons.get("length", 0)
        limit, method = state.limit, session.method
        if limit is not None and lasted < limit and not method.runs:
            session.warn(
                f"{method.describe()} is for {limit} evaluations, and this run of "
                f"{type(session.module).__name__} ended after {lasted}. If that is its whole length, use a "
                "table for it; dcache.step(module, index=..., steps=...) checks the length from the start."
            )
        # For `last` alone nothing is learned: it would change the second picture of a seed.
        if not computed and run.expected is None:
            return False
        length = session.tracker.learned.learn(run, lasted)
        if lasted < 2 or run.expected == length or method.steps is not None or not method.predicts:
            return False
        session.warn(
            f"this run of {type(session.module).__name__} had {lasted} evaluations, which nothing said "
            f"beforehand: {computed} site events were computed for that. Later runs with the same timesteps "
            f"are taken to have {length}; dcache.step(module, index=..., steps=...) says it from the start."
        )
        return True

    def warn_unstepped(self, state: RunState, run: Run) -> None:
        """Warn of a run whose sampler was not stepped, so that all of its calls count as one evaluation."""
        state.said = True
        self.session.warn(
            f"nothing was predicted in this run of {type(self.session.module).__name__}: `step` of its "
            f"{run.sampler} was not called, so its {run.calls} calls count as one evaluation."
        )

    def conclude(self, state: RunState, whole: bool, brief: bool) -> None:
        """Say what there is to say of a run that is over.

        Args:
            state: what was counted of it.
            whole: whether it came to its end.
            brief: whether it is of unknown length, and had no more than one evaluation.
        """
        session = self.session
        self._broken_off = 0 if (whole and not brief) or state.record.predicted else self._broken_off + 1
        # An interrupted run had no time to predict; its own error is what should be seen.
        if whole and self._broken_off < TURNS:
            self.warn_nothing(state)
        if self._broken_off == TURNS and session.method.predicts:
            session.warn(
                f"{TURNS} runs of {type(session.module).__name__} in a row broke off before anything was "
                "predicted. If loops take turns on it (generators), each call begins a run anew: let one end "
                "before the next begins, give each a thread of its own, or tell them apart by "
                "dcache.step(module, index=..., branch=...)."
            )

    def warn_nothing(self, state: RunState) -> None:
        """Warn where the run that came to its end had nothing to predict, once for each run."""
        session = self.session
        wanted = session.method.predicts and not state.full
        if wanted and not state.record.predicted and not state.said and self._missed(state):
            state.said = True
            why = state.stats(session.method.describe()).why_nothing()
            session.warn(f"nothing was predicted in this run of {type(session.module).__name__}: {why}")

    def _missed(self, state: RunState) -> bool:
        """Whether the denoiser was called, and nothing was said yet of why that could not be predicted."""
        record, guidance = state.record, self.session.binding.guidance
        said = guidance is not None and bool(guidance.useless)
        return bool(record.reasons) or (record.seconds_compute > 0.0 and not said)
