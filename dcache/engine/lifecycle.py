"""The life of a run: what opens it, what ends it, and what is freed when."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import nn

from dcache.engine.binding import Binding
from dcache.engine.call import Call
from dcache.engine.config import SessionConfig
from dcache.engine.gate import wrong_count
from dcache.engine.memory import SessionMemory
from dcache.engine.model_call import Threads
from dcache.engine.protocols import Owner
from dcache.engine.run_state import RunState
from dcache.errors import DcacheError
from dcache.identity.noise_grid import Grid, put
from dcache.identity.run import Run
from dcache.identity.sampler import Listener
from dcache.identity.threads import is_called_in
from dcache.identity.tracker import RunTracker
from dcache.method import Method


class Living(Protocol):
    """What the life of a run needs of the session.

    Attributes:
        owners: the pipelines that the denoiser is part of.
        context: name of the branch that the calls to come are for.
    """

    module: nn.Module
    method: Method
    config: SessionConfig
    call: Call | None
    state: RunState
    binding: Binding
    memory: SessionMemory | None
    owners: list[Owner]
    tracker: RunTracker
    context: str | None
    removed: bool

    @property
    def lanes(self) -> Threads:
        """What is kept apart for each thread."""
        ...

    @property
    def guidance(self) -> float | None:
        """The guidance scale of the last call."""
        ...

    def verify(self) -> None:
        """Notice what happened to the model since the last run."""
        ...

    def warn(self, text: str) -> None:
        """Warn once per session and text."""
        ...


class Lifecycle(Listener):
    """Opens and ends the runs of one session; listens to the samplers of its pipelines.

    Args:
        session: the session.

    Attributes:
        noise_grid: the noise levels that the sampler was given, and its own.
    """

    def __init__(self, session: Living) -> None:
        self.session = session
        self.noise_grid: Grid | None = None
        self.learns = session.method.needs_model_output

    def here(self) -> AbstractContextManager[None]:
        """Make this thread's run the session's, and keep others out."""
        return self.session.lanes.here()

    def refuse_other_thread(self, sampler: Any, thread: int) -> None:
        """Refuse a second thread while the sampler's pipeline is called in the first.

        Raises:
            DcacheError: the pipeline's call is under way in that thread.
        """
        for owner in tuple(self.session.owners):
            pipe = owner.pipe()
            if getattr(pipe, "scheduler", None) is sampler and is_called_in(pipe, thread):
                name = type(pipe).__name__
                raise DcacheError(
                    f"this {name} is being called in another thread, and its sampler can serve one call at a "
                    f"time. Give each thread a pipeline of its own: {name}.from_pipe(pipe, "
                    "scheduler=copy.deepcopy(pipe.scheduler)) shares the weights."
                )

    def is_copied(self, memo: Mapping[int, Any]) -> bool:
        """Whether one of the pipelines is part of a deep copy under way."""
        pipes = [owner.pipe() for owner in self.session.owners]
        return any(id(pipe) in memo for pipe in pipes if pipe is not None)

    def before_run(self) -> None:
        """A sampler is about to open a run: notice what happened to the model since, free the last run."""
        for owner in tuple(self.session.owners):
            owner.follow(self.session)
        if self.session.removed:
            return
        self.session.verify()
        self.end()
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

    def paused(self, run: Run) -> None:
        """Free what a denoiser remembers that is no longer called in the run (the first of Wan 2.2's two)."""
        state = self.session.state
        if state.run is run and state.last_index < run.index - 1:
            self.free()

    def after_last(self, run: Run) -> bool:
        """The sampler made its last step: the run's end, unless a pipeline will say that it is over."""
        if any(owner.ends_itself for owner in self.session.owners):
            # It may do so late or never (Stable Audio's latents); what was remembered is of no more use.
            self.free()
            return False
        if run is self.session.state.run:
            self.end()
        return True

    def open(self, run: Run) -> None:
        """A call belongs to another run than the one under way.

        Raises:
            DcacheError: the run is of another length than the method's table, or has not its noise levels.
        """
        session = self.session
        self.end()
        session.verify()
        # The run is the session's only once nothing is wrong with it.
        session.state = RunState(sampler=run.sampler)
        steps = session.method.steps
        if steps is not None and run.count is not None and run.count != steps:
            raise wrong_count(steps, run.count)
        if session.method.sigmas and (self.noise_grid is None or not self.noise_grid.holds):
            raise DcacheError(
                f"{session.method.describe()} changes the noise levels of the run, and no sampler that "
                "dcache knows of was given them: enable it on the pipeline, before its call, or use the "
                "schedule without them: dataclasses.replace(schedule, sigmas=())"
            )
        differences = list(session.config.differences_of_run(run, session.guidance))
        session.state.run = run
        for text in differences:
            session.warn(text)

    def end(self) -> None:
        """Free all histories; what was counted stays."""
        session = self.session
        session.call = None
        state, run = session.state, session.state.run
        if run is None:
            return
        whole = run.count is None or state.steps >= run.count
        self.free()
        if self.noise_grid is not None and whole:
            # In the middle of a run the rest of it goes on with the levels it began with.
            self.noise_grid.restore()
            self.noise_grid = None
        state.close()
        session.tracker.forget(run)
        # An interrupted run had no time to predict; its own error is what should be seen.
        if whole and session.method.predicts and not state.record.predicted and self._missed():
            why = state.stats(session.method.describe()).why_nothing()
            session.warn(f"nothing was predicted in this run of {type(session.module).__name__}: {why}")

    def free(self) -> None:
        """Drop all histories; what was counted stays, a further call finds nothing to predict from."""
        session = self.session
        session.state.note_peak()
        session.state.branches = {}
        for region in session.binding.regions:
            region.release()
        if session.memory is not None:
            session.memory.forget()

    def _missed(self) -> bool:
        """Whether the denoiser was called, and nothing was said yet of why that could not be predicted."""
        record, guidance = self.session.state.record, self.session.binding.guidance
        said = guidance is not None and bool(guidance.useless)
        return bool(record.reasons) or (record.seconds_compute > 0.0 and not said)
