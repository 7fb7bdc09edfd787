"""Threads: what a session keeps of a run, apart for each thread.

Two pipelines may share a denoiser and run in two threads. Every thread has a lane: the run under way with its
histories, the names of its guidance branches, and what the site `guidance` learned in the run. The session
works on the lane of the thread that it is called from. A lock makes calls of the denoiser take turns: modules
and intercepts are shared, and one call is what they can serve at a time.

The lane of a thread dies with the thread.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from dcache.engine.lowering.guidance import GuidanceRegion
from dcache.engine.run_state import RunState
from dcache.identity.noise_grid import Grid
from dcache.identity.tracker import RunTracker
from dcache.method import Method


@dataclass(eq=False)
class Lane:
    """One thread's part of a session, while another thread's is the active one.

    Attributes:
        state: the run under way, or the last one.
        context: name of the branch that the calls to come are for.
        tracking: fields of the tracker that belong to a run: its sampler, its loop, what `dcache.step` said.
        noise_grid: the noise levels that the thread's sampler was given, and its own.
        guidance: the site `guidance` and its fields, None where it has none or was not called.
    """

    state: RunState = field(default_factory=RunState)
    context: str | None = None
    tracking: dict[str, Any] = field(default_factory=dict)
    noise_grid: Grid | None = None
    guidance: tuple[GuidanceRegion, dict[str, Any]] | None = None


class Own(threading.local):
    """The lane of the thread that looks; identifiers of threads would not do, for they are used again."""

    lane: Lane | None = None


class Bound(Protocol):
    """Bound sites."""

    guidance: GuidanceRegion | None


class Alive(Protocol):
    """Opens and ends runs."""

    noise_grid: Grid | None


class Shared(Protocol):
    """A session, whose denoiser several threads may call."""

    state: RunState
    context: str | None
    tracker: RunTracker

    def adopt(self, method: Method) -> None:
        """Use another method with the same sites from the next call on."""
        ...

    @property
    def lifecycle(self) -> Alive:
        """Opens and ends its runs."""
        ...

    @property
    def binding(self) -> Bound:
        """Its bound sites."""
        ...


class Lanes:
    """The lanes of one session.

    Args:
        session: the session; the thread that makes it has the first lane.

    Attributes:
        lock: held during every call of the denoiser and every event of its samplers.
        own: has the lane of the thread that looks.
        active: the lane that the session works on, None once caching was taken off.
    """

    def __init__(self, session: Shared) -> None:
        # The session keeps its lanes for as long as it lives: another thread may wait for the lock.
        self.session: Shared = weakref.proxy(session)
        self.lock: AbstractContextManager[Any] = threading.RLock()
        self.own = Own()
        self.active: Lane | None = Lane(session.state)
        self.own.lane = self.active

    @contextmanager
    def here(self) -> Iterator[None]:
        """Hold the lock, with the lane of this thread active."""
        with self.lock:
            self.switch()
            yield

    def clear(self) -> None:
        """Forget all threads' runs: caching was taken off, and no lane is to be activated any more."""
        self.own, self.active = Own(), None

    def switch(self) -> None:
        """Activate the lane of this thread; the lock is held."""
        lane, active = self.own.lane, self.active
        if lane is active or active is None:
            return
        # Only the active lane's fields lie on the session, where the engine reads them without a call.
        self._park(active)
        if lane is None:
            lane = self.own.lane = Lane()
        self._activate(lane)
        self.active = lane

    def shown(self) -> RunState:
        """This thread's run, or the newest one of all where it has none."""
        lane = self.own.lane
        if lane is None or lane is self.active:
            return self.session.state
        return lane.state if lane.state.record.events or lane.state.run is not None else self.session.state

    def _park(self, lane: Lane) -> None:
        session = self.session
        lane.state, lane.context = session.state, session.context
        lane.tracking = session.tracker.of_run()
        lane.noise_grid = session.lifecycle.noise_grid
        guidance = session.binding.guidance
        lane.guidance = None if guidance is None else (guidance, dict(vars(guidance)))

    def _activate(self, lane: Lane) -> None:
        session = self.session
        session.state, session.context = lane.state, lane.context
        if lane.state.method is not None:
            session.adopt(lane.state.method)
        session.tracker.restore(lane.tracking)
        session.lifecycle.noise_grid = lane.noise_grid
        guidance = session.binding.guidance
        if guidance is not None:
            # After a rebind the site is another object, and what was learned on the old one is void.
            known = lane.guidance is not None and lane.guidance[0] is guidance
            fields = lane.guidance[1] if known and lane.guidance else None
            vars(guidance).update(fields or vars(GuidanceRegion(guidance.engine, guidance.site)))
