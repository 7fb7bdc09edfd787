"""What a session knew before a first call, so that a call that was no evaluation can be taken out again.

That a call writes into its arguments is known only after it. Later calls of its signature pass by the gate;
the first one was admitted, and is undone, so that the first run is like those that follow it.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Protocol

from dcache.engine.call import Call
from dcache.engine.run_state import RunState
from dcache.identity.tracker import RunTracker
from dcache.intercept.pytree import copy_containers


class Rewound(Protocol):
    """What a checkpoint reads and restores of a session; attributes as there."""

    state: RunState
    tracker: RunTracker


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
        runs = [tracker.loop.run, *(tap.run for tap in tracker.taps)]
        if tracker.manual is not None:
            runs.append(tracker.manual.run)
        # Where the loop and the runs stand: attributes, with containers of their own.
        self.places: list[tuple[Any, dict[str, Any]]] = [
            (thing, copy_containers(dict(vars(thing))))
            for thing in (tracker.loop, *runs)
            if thing is not None
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
        evaluates = sampled and call.run is not session.tracker.loop.run
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
        session.state = self.state
        self.state.branches, self.state.shared = branches, self.shared
        self.state.names, self.state.last_index = self.names, self.last_index
        return False
