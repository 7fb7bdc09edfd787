"""What is settled before a run opens."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from dcache import DcacheError, Schedule, methods
from dcache.engine.run_begin import begins_call, fit_table, next_state, refuse_other_levels
from dcache.engine.run_state import RunState
from dcache.identity.run import Run
from dcache.methods.replay import replay
from dcache.schedule.plan import RunLength

EVERY_2 = methods.interval(interval=2)
OF_FOUR = replay(Schedule.of_steps([0, 2], 4), "", True)


class Frame:
    """What tells a pipeline's call from others: here a name."""

    def __init__(self, name: str, state: object = None) -> None:
        self.name, self.state = name, state

    def is_of(self, other: Frame | None) -> bool:
        """Whether the other one is of the same call."""
        return other is not None and other.name == self.name


def opening(*frames: Frame, runs: int | None = None, known: Frame | None = None, **more: Any) -> Any:
    """The part of a session that the beginning of a run is about, with pipelines whose calls have frames."""
    tracker = SimpleNamespace(runs_of_call=runs, call_frame=known, is_guest=lambda run: False)
    owners = [SimpleNamespace(call_frame=lambda frame=frame: frame) for frame in frames]
    return SimpleNamespace(
        **{"method": EVERY_2, "state": RunState(), "owners": owners, "tracker": tracker, **more}
    )


def at(index: int, count: int) -> RunState:
    """The state of a run under way."""
    return RunState(run=Run(index=index, count=count))


@pytest.mark.parametrize(
    ("session", "begins", "runs"),
    [
        (opening(), False, None),
        (opening(Frame("a")), True, 0),
        # The pipeline said that its call begins.
        (opening(Frame("a"), runs=1), False, 1),
        (opening(Frame("a"), runs=1, known=Frame("a")), False, 1),
        (opening(Frame("b"), runs=1, known=Frame("a")), True, 0),
        # The call is over: no frame of it is there.
        (opening(runs=1, known=Frame("a")), False, None),
        # The same place in memory again, though the run broke off; its last evaluation may be left out.
        (opening(Frame("a"), runs=1, known=Frame("a"), state=at(1, 4)), True, 0),
        (opening(Frame("a"), runs=1, known=Frame("a"), state=at(3, 4)), False, 1),
        # The state of a modular pipeline is the same object: it is the same call.
        (opening(Frame("a", state={}), runs=1, known=Frame("a"), state=at(1, 4)), False, 1),
    ],
)
def test_the_frame_of_a_pipelines_call_tells_it_from_the_last_one(
    session: Any, begins: bool, runs: int | None
) -> None:
    assert (begins_call(session), session.tracker.runs_of_call) == (begins, runs)


def test_a_run_of_a_pipelines_call_knows_those_before_it() -> None:
    first = RunState(full_next=True)
    first.record.event("cond", "trunk", 0, "warmup")
    session = opening(runs=0, state=first)
    alone = next_state(session, Run(sampler="Euler"), None, left=False)
    assert (alone.sampler, alone.earlier, alone.full, session.tracker.runs_of_call) == ("Euler", (), True, 1)
    second = next_state(session, Run(), None, left=False)
    assert (second.earlier, session.tracker.runs_of_call) == ((first,), 2)
    # Outside of a call, and for the sampler of another pipeline, there is nothing before it.
    session.tracker.is_guest = lambda run: True
    guest = next_state(session, Run(), None, left=False)
    assert (guest.earlier, session.tracker.runs_of_call) == ((), None)


def test_a_run_that_may_be_the_last_one_keeps_that() -> None:
    session, before = opening(), Run()
    assert next_state(session, Run(doubtful=True), before, left=False).doubted == (session.state, before)
    assert next_state(session, Run(), None, left=False).doubted is None


@pytest.mark.parametrize(
    ("run", "left", "why"),
    [
        (Run(index=3), True, "it was left for another one, and evaluation 3 began afresh"),
        (Run(late=True), False, "its first evaluations were not seen, or belong to a run that was left"),
        (Run(index=1, told={1: (0.5, None)}), False, "its first evaluations were not seen"),
        (Run(told={0: (0.5, None)}), False, ""),
        (Run(), False, ""),
    ],
)
def test_a_run_whose_beginning_is_elsewhere_has_no_trace(run: Run, left: bool, why: str) -> None:
    untraced = next_state(opening(), run, None, left).untraced
    assert untraced.startswith(why)
    assert bool(untraced) == bool(why)


def test_a_run_finds_its_rows_in_the_table() -> None:
    session = opening(method=OF_FOUR)
    run = Run(count=4)
    fit_table(session, run)
    assert (session.state.limit, session.state.offset, run.end) == (4, 0, 4)
    # Without a table there is nothing to find.
    session = opening()
    fit_table(session, Run(count=9))
    assert session.state.limit is None
    session = opening(method=OF_FOUR)
    with pytest.raises(DcacheError, match="is for 4 evaluations and the run has 5"):
        fit_table(session, Run(count=5))
    # What nothing said the length of is not refused for that.
    fit_table(session, Run())
    assert session.state.limit == 4


def test_the_second_run_of_a_call_has_the_rows_behind_the_firsts() -> None:
    lengths = (RunLength(4, 5), RunLength(2, 2))
    session = opening(method=replace(OF_FOUR, runs=lengths), state=RunState(earlier=(RunState(),)))
    fit_table(session, Run(count=2))
    assert (session.state.limit, session.state.offset) == (2, 4)
    session.state = RunState(earlier=(RunState(), RunState()))
    with pytest.raises(DcacheError, match=r"is for 2 run\(s\) .* and this is run 3"):
        fit_table(session, Run(count=2))


def test_noise_levels_of_a_schedule_have_to_be_those_of_the_sampler() -> None:
    levels: Any = SimpleNamespace(holds=True)
    other: Any = SimpleNamespace(holds=False)
    method = replace(OF_FOUR, sigmas=(1.0, 0.5, 0.25, 0.1))
    refuse_other_levels(method, levels)
    refuse_other_levels(OF_FOUR, None)
    for missing in (None, other):
        with pytest.raises(DcacheError, match="changes the noise levels of the run"):
            refuse_other_levels(method, missing)
