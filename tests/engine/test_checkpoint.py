"""A checkpoint: a call that was no evaluation leaves the session as it was."""

from __future__ import annotations

from typing import Any

import torch

import dcache
from dcache import methods
from dcache.cache.history import Branch
from dcache.engine.call import Call
from dcache.engine.checkpoint import Checkpoint
from dcache.engine.session import Session
from dcache.intercept.pytree import copy_containers
from tests.engine.tiny_models import Toy, ToyPipe, session_on, steps, walk

EVERY_2 = methods.interval(interval=2, codec="value")
X = torch.ones(1, 2, 4)


def state_of(session: Session) -> Any:
    """Where the session, its loop and its run stand."""
    state, loop = session.state, session.tracker.loop
    return copy_containers({
        "loop": dict(vars(loop)),
        "run": dict(vars(state.run)) if state.run is not None else None,
        "names": dict(vars(state.names)),
        "branches": dict(state.branches),
        "last": state.last_index,
        "shared": dict(state.shared),
        "events": state.record.events,
        "counts": state.record.counts(),
    })  # fmt: skip


def admitted(session: Session, time: float, **more: Any) -> Call:
    """The call that the gate makes of one; its counts are noted as the session does."""
    with torch.no_grad():
        call = session.gate.admit((X, time), more)
    assert call is not None
    call.counts = session.state.record.counts()
    return call


def test_what_was_no_evaluation_is_taken_out_of_a_loop() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    walk(toy, [4, 3, 2])
    before, branch = state_of(session), session.state.branches["0"]
    call = admitted(session, 1.0, flag=True)
    session.state.record.event("0", "trunk", call.index, "shape")
    assert call.index == 3
    assert session.state.branches["0"] is not branch
    assert call.withdraw is not None
    assert call.withdraw(call, False) is False
    assert state_of(session) == before
    assert session.state.branches["0"] is branch
    # A sample makes no evaluation of it where the timestep alone says which one it would be.
    call = admitted(session, 1.0, flag=True)
    assert call.withdraw is not None
    assert call.withdraw(call, True) is False
    assert state_of(session) == before


def test_a_run_that_it_opened_is_none() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    walk(toy, [4, 3, 2])
    state = session.state
    call = admitted(session, 9.0, flag=True)
    assert session.state is not state
    assert call.withdraw is not None
    assert call.withdraw(call, False) is False
    assert session.state is state
    # That run was ended by it, and its histories freed.
    assert (state.run, state.branches) == (None, {})
    assert session.tracker.loop.value == 2.0


def test_with_a_sample_it_stays_an_evaluation_of_the_run_that_was_told() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    steps(toy, [4, 3])
    branch = session.state.branches["0"]
    dcache.step(toy, 2)
    call = admitted(session, 2.0, flag=True)
    session.state.record.event("0", "trunk", 2, "shape")
    assert call.withdraw is not None
    assert call.withdraw(call, True) is True
    assert session.state.branches == {"0": branch}
    assert session.state.record.events == {"0": {"trunk": {0: True, 1: False}}}
    assert session.state.record.counts() == (1, 1, {"warmup": 1})
    assert (session.state.last_index, session.state.run and session.state.run.calls) == (2, 1)


def test_in_a_samplers_run_it_counts_no_call() -> None:
    pipe = dcache.enable(ToyPipe(Toy()), EVERY_2)
    pipe.scheduler.set_timesteps(3)
    session = dcache.engine.session.session_of(pipe.denoiser)
    assert session is not None
    run = session.tracker.taps[0].run
    assert run is not None
    before = copy_containers(dict(vars(run)))
    call = admitted(session, 3.0, flag=True)
    assert (run.calls, run.started) == (1, True)
    assert call.withdraw is not None
    assert call.withdraw(call, False) is False
    assert dict(vars(run)) == before


def test_a_known_call_has_none() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    walk(toy, [4])
    assert admitted(session, 3.0).withdraw is None


def test_branches_of_the_checkpoint_are_its_own_list() -> None:
    session = session_on(Toy(), EVERY_2)
    checkpoint = Checkpoint(session)
    session.state.branches["late"] = Branch("late", 1)
    assert checkpoint.branches == {}
