"""What a session knew before a first call, so that a call that was no evaluation can be taken out again.

That a call writes into its arguments is known only after it. Later calls of its signature pass by the gate;
the first one was admitted, and is undone, so that the first run is like those that follow it.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Protocol

from dcache.engine.call import Call
from dcache.engine.protocols import Owner
from dcache.engine.run_state import RunState
from dcache.identity.tracker import RunTracker
from dcache.intercept.pytree import copy_containers


class Rewound(Protocol):
    """Interface: the part of a session that a checkpoint saves and restores."""

    state: RunState
    tracker: RunTracker
    owners: list[Owner]


class Checkpoint:
    """The state of a session before a call was admitted.

    Args:
        session: the session.
    """

    def __init__(self, session: Rewound) -> None:
        self.session = session
        self.state = state = session.state
        self.branches = dict(state.branches)
        self.names, self.shared, self.last_index = copy(state.names), dict(state.shared), state.last_index
        tracker = session.tracker
        self.loop, self.manual, guest = tracker.loop, tracker.manual, tracker.guest.intercept
        runs = [tracker.loop.run, *(tap.run for tap in tracker.taps), None if guest is None else guest.run]
        if tracker.manual is not None:
            runs.append(tracker.manual.run)
        following = [tracker.loop, tracker.manual, tracker.sample, tracker.conditioning]
        self.continuity = copy(tracker.continuity)
        # Where the loop and the runs stand: attributes, with containers of their own.
        self.places: list[tuple[Any, dict[str, Any]]] = [
            (place, copy_containers(dict(vars(place)))) for place in (*following, *runs) if place is not None
        ]

    def withdraw(self, call: Call, sampled: bool) -> bool:
        """Forget a call that writes into its arguments.

        Args:
            call: the call; it just ended.
            sampled: whether the model returned a sample.

        Returns:
            Whether the call stays an evaluation of its run: it returned a sample, and something other than
            its timestep says which evaluation it is.
        """
        session, state = self.session, self.session.state
        tracker, run = session.tracker, call.run
        # A pipeline's own sampler is no guest once its run is open: before that, nothing is evaluated.
        early = run is not None and bool(session.owners) and tracker.is_guest(run)
        evaluates = sampled and run is not tracker.loop.run and not early
        state.record.withdraw(call.branch.name, call.index, call.counts)
        opened = state is not self.state
        # A run that was opened by this call ended the one before it, and freed what that remembered.
        branches = {} if opened else self.branches
        if evaluates:
            state.branches, state.shared = branches, {} if opened else self.shared
            return True
        for place, attributes in self.places:
            vars(place).clear()
            vars(place).update(attributes)
        tracker.loop, tracker.manual, session.state = self.loop, self.manual, self.state
        tracker.continuity = self.continuity
        self.state.branches, self.state.shared = branches, self.shared
        self.state.names, self.state.last_index = self.names, self.last_index
        return False
