"""The life of a run: what opens it, what ends it, and what is freed when."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from threading import get_ident
from typing import Any, Protocol

import torch

from dcache.engine.binding import Binding
from dcache.engine.call import Call
from dcache.engine.config import SessionConfig
from dcache.engine.memory import SessionMemory
from dcache.engine.model_call import Threads
from dcache.engine.protocols import Tuned, Tuner
from dcache.engine.run_begin import begins_call, fit_table, next_state, refuse_other_levels
from dcache.engine.run_end import TURNS, RunEnd, outcome_of
from dcache.errors import DcacheError
from dcache.identity.listener import Listener
from dcache.identity.noise_grid import Grid, put
from dcache.identity.run import Run
from dcache.identity.sampler import tap_of
from dcache.identity.threads import is_called_in, is_driven_in


class Living(Tuned, Protocol):
    """Interface: the part of a session that opening and ending a run reads and changes.

    Attributes:
        context: name of the branch that the calls to come are for.
    """

    config: SessionConfig
    call: Call | None
    binding: Binding
    memory: SessionMemory | None
    context: str | None
    removed: bool
    tuner: Tuner | None

    @property
    def lanes(self) -> Threads:
        """The state of each thread."""
        ...

    def verify(self) -> None:
        """Notice what happened to the model since the last run."""
        ...


class Lifecycle(Listener):
    """Opens and ends the runs of one session; listens to the samplers of its pipelines.

    Args:
        session: the session.

    Attributes:
        noise_grid: the noise levels that the sampler was given, and its own.
        run_end: learns from the runs that are over, and warns.
    """

    def __init__(self, session: Living) -> None:
        self.session = session
        self.noise_grid: Grid | None = None
        self.learns = session.method.needs_model_output
        # Runs that ended before their last evaluation, and may go on.
        self._left: list[Run] = []
        self.run_end = RunEnd(session)

    def here(self) -> AbstractContextManager[None]:
        """Make this thread's run the session's, and keep others out."""
        return self.session.lanes.here()

    def refuse_other_thread(self, sampler: Any) -> None:
        """Refuse a second thread while the sampler is in use in the first: by a pipeline's call, or a loop.

        Raises:
            DcacheError: that call or loop is under way.
        """
        watched = tap_of(sampler)
        if watched is None or not watched.in_use or watched.thread == get_ident():
            return
        for owner in tuple(self.session.owners):
            pipe = owner.pipe()
            if getattr(pipe, "scheduler", None) is sampler and is_called_in(pipe, watched.thread):
                name = type(pipe).__name__
                raise DcacheError(
                    f"this {name} is being called in another thread, and its sampler can serve one call at a "
                    f"time. Give each thread a pipeline of its own: {name}.from_pipe(pipe, "
                    "scheduler=copy.deepcopy(pipe.scheduler)) shares the weights."
                )
        # Behind the last step a loop has no more use for it.
        is_over = watched.run is not None and watched.run.over
        if not is_over and is_driven_in(sampler, watched.thread):
            raise DcacheError(
                f"this {type(sampler).__name__} drives a loop in another thread, and it can serve one at a "
                "time. Give each thread a pipeline of its own, or a sampler: copy.deepcopy(pipe.scheduler)."
            )

    def is_copied(self, memo: Mapping[int, Any]) -> bool:
        """Whether one of the pipelines is part of a deep copy under way."""
        pipes = [owner.pipe() for owner in self.session.owners]
        return any(id(pipe) in memo for pipe in pipes if pipe is not None)

    def watch_of(self, pipe: Any) -> Any:
        """The watch on a pipeline that has no method which could hold it, where it is one of the owners."""
        return next((owner.watch for owner in self.session.owners if owner.pipe() is pipe), None)

    def before_run(self) -> None:
        """A sampler is about to open a run: notice what happened to the model since, free the last run."""
        for owner in tuple(self.session.owners):
            owner.follow(self.session)
        if self.session.removed:
            return
        self.session.verify()
        if begins_call(self.session):
            self.end()
        # Within one call of a pipeline the next run begins where the last one came to its end.
        self.end(whole=self.session.tracker.runs_of_call is not None)
        self.session.tracker.manual = None
        # A guider that died within a call has not said that its turn is over.
        self.session.context = None

    def timed(self, sampler: Any) -> None:
        """Give the sampler the schedule's noise levels, if it has any."""
        if self.session.method.sigmas and not self.session.removed:
            self.noise_grid = put(sampler, self.session.method.sigmas)

    def stepped(self, mixed: torch.Tensor) -> None:
        """The sampler is given this model output."""
        if self.session.binding.guidance is not None:
            self.session.binding.guidance.learn(mixed)

    def unsteady(self, name: str) -> None:
        """Say of which argument another value opens no run."""
        self.session.warn(
            f"argument {name!r} of {type(self.session.module).__name__} changes in every evaluation, so "
            "another value is not taken for another observation (a prompt, an image): features are carried "
            "across it. Call dcache.reset(module) where a new observation begins."
        )

    def paused(self, run: Run) -> None:
        """Free what a denoiser remembers that is no longer called in the run (the first of Wan 2.2's two)."""
        state = self.session.state
        if state.run is run and state.last_index < run.index - 1:
            self.free()

    def after_last(self, run: Run) -> bool:
        """The sampler made its last step: the run's end, unless a pipeline will say that it is over."""
        ends_itself = any(owner.ends_itself for owner in self.session.owners)
        if ends_itself and not self.session.tracker.is_guest(run):
            # It may do so late or never (Stable Audio's latents); what was remembered is of no more use.
            self.free()
            if run is self.session.state.run:
                self.run_end.warn_nothing(self.session.state)
            return False
        if run is self.session.state.run:
            self.end()
        return True

    def orphaned(self) -> None:
        """The sampler of the loop under way is gone, in which no pipeline took part: its run is over."""
        if self.session.removed:
            return
        with self.here():
            tracker, run = self.session.tracker, self.session.state.run
            others = [tracker.loop.run, *(watched.run for watched in tracker.taps)]
            if tracker.manual is None and all(other is not run for other in others):
                self.end()

    def begin_call(self) -> None:
        """A call of a pipeline begins, which may hold several runs; what is left of the last one is over."""
        self.end()
        self.session.tracker.runs_of_call, self.session.tracker.call_frame = 0, None

    def end_call(self, whole: bool, returns: bool = True) -> None:
        """The pipeline's call is over.

        Args:
            whole: whether it was not interrupted.
            returns: whether the call itself says so; else another cleans up after one that may be broken off.
        """
        self.end(whole, learns=True, returns=returns)
        self.session.tracker.runs_of_call = self.session.tracker.call_frame = None

    def open(self, run: Run) -> None:
        """A call belongs to another run than the one under way.

        Raises:
            DcacheError: the run is of another length than the method's table, or has not its noise levels.
        """
        session = self.session
        before = session.state.run
        self.end(doubtful=run.doubtful)
        session.verify()
        # The run is the session's only once nothing is wrong with it.
        left = any(run is other for other in self._left)
        session.state = next_state(session, run, before if run.doubtful else None, left)
        fit_table(session, run)
        if run.count is None:
            session.tracker.learned.foresee(run)
        refuse_other_levels(session.method, self.noise_grid)
        session.state.guidance = session.guidance
        differences = list(session.config.differences_of_run(run, session.state.guidance))
        session.state.run = run
        for text in differences:
            session.warn(text)

    def walked(self, run: Run | None) -> None:
        """The pipeline's loop is over: so is its run where the sampler's `step` was not called in it.

        Args:
            run: the sampler's, None for one that has no `step`.
        """
        current, loop = self.session.state.run, self.session.tracker.loop.run
        unstepped = current is run and current is not None and not current.index and current.calls > 1
        if unstepped or (current is not None and current is loop):
            self.end(whole=True, returns=True)

    def reset(self, full: bool = False, failed: bool = False) -> None:
        """End this thread's run: its histories are freed, and the next call opens a run.

        Args:
            full: compute that run completely.
            failed: whether an exception ended the run.
        """
        session = self.session
        with session.lanes.here():
            if not session.removed:
                session.state.full_next = session.state.full_next or full
                session.state.failed = session.state.failed or failed
                self.end()
                session.tracker.reset()
                session.context = None

    def joined(self, run: Run) -> None:
        """The run under way is the one before it, gone on: count their evaluations together."""
        session, doubted = self.session, self.session.state.doubted
        session.state.doubted = None
        if doubted is not None and run is session.state.run:
            session.state.precede(doubted[0], counts_steps=session.method.clock == "step")
            session.tracker.learned.foresee(run)

    def end(
        self, whole: bool = False, learns: bool = False, returns: bool = False, doubtful: bool = False
    ) -> None:
        """Free all histories; what was counted stays.

        Args:
            whole: whether the run is known to have come to its end; else its length tells.
            learns: whether later runs with the same table are to be taken for as long.
            returns: whether the pipeline's call reached its end.
            doubtful: whether a run opens that may be this one, gone on.
        """
        session = self.session
        session.call = None
        state, run = session.state, session.state.run
        if run is None:
            return
        self.run_end.settle_doubted(state)
        outcome = outcome_of(state, run, whole, learns, returns)
        self.free()
        if self.noise_grid is not None and outcome.whole:
            # In the middle of a run the rest of it goes on with the levels it began with.
            self.noise_grid.restore()
            self.noise_grid = None
        if state.record.events and not run.over:
            self._left = [*self._left[-TURNS:], run]
        state.close(outcome.whole)
        if session.tuner is not None:
            session.tuner.end(session, run, outcome.whole and not doubtful)
        session.tracker.forget(run)
        self.run_end.learn(state, run, outcome, doubtful)

    def free(self) -> None:
        """Drop all histories; what was counted stays, a further call finds nothing to predict from."""
        session = self.session
        session.state.note_peak()
        session.state.branches = {}
        for region in session.binding.regions:
            region.release()
        if session.memory is not None:
            session.memory.forget()
