"""What is learned from a run that is over, and what is said of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import dcache
from dcache import DcacheWarning, methods
from dcache.engine.pipeline import sessions_of
from dcache.engine.run_end import RunEnd, outcome_of
from dcache.engine.run_state import RunState
from dcache.identity.run import Run
from tests.engine.tiny_models import Toy, ToyPipe, session_on, steps

ALL_WARMUP = methods.interval(interval=2, warmup=99)
# Uncached 8 (t + 1) at t = 6 to 1.
PLAIN = [56, 48, 40, 32, 24, 16]


def test_a_whole_run_without_a_prediction_says_why() -> None:
    pipe = ToyPipe(Toy())
    dcache.enable(pipe, ALL_WARMUP)
    with pytest.warns(
        DcacheWarning, match=r"nothing was predicted in this run of Toy: 6 x inside the warm-up"
    ):
        assert pipe() == PLAIN


def test_so_does_one_whose_length_nobody_told() -> None:
    toy = Toy()
    session = session_on(toy, ALL_WARMUP)
    steps(toy, [4])
    with pytest.warns(
        DcacheWarning, match="nothing was predicted in this run of Toy: 1 x inside the warm-up"
    ):
        session.end_run()


@pytest.mark.parametrize("how", ["error", "next run", "disable"])
def test_an_interrupted_run_says_nothing(how: str) -> None:
    pipe = ToyPipe(Toy())
    dcache.enable(pipe, ALL_WARMUP)

    def stop(i: int) -> None:
        if i == 2:
            raise ZeroDivisionError

    # Warnings are errors here.
    with pytest.raises(ZeroDivisionError):
        pipe(at_step=stop)
    if how == "next run":
        with pytest.raises(ZeroDivisionError):
            pipe(at_step=stop)
    elif how == "disable":
        dcache.disable(pipe)
        assert pipe() == PLAIN
    assert dcache.stats(pipe).computed == 3


def test_neither_does_one_that_was_asked_to_compute_everything_nor_one_without_calls() -> None:
    pipe = ToyPipe(Toy())
    dcache.enable(pipe, methods.interval(interval=1))
    assert pipe() == PLAIN
    dcache.enable(pipe, ALL_WARMUP)
    (session,) = sessions_of(pipe).values()
    session.open_run(Run(count=0))
    session.end_run()


def test_what_is_said_last_is_said_when_everything_is_over() -> None:
    toy = Toy()
    session = session_on(toy, ALL_WARMUP)
    steps(toy, [4])
    # A warning that is an error interrupts nothing.
    with pytest.raises(DcacheWarning, match="nothing was predicted"):
        session.end_run()
    assert (session.state.run, session.state.branches) == (None, {})
    assert session.stats().computed == 1


def after(*predicted: bool) -> list[str]:
    """What is said of runs that broke off, some of them after a prediction."""
    said: list[str] = []
    session: Any = SimpleNamespace(
        module=Toy(), method=ALL_WARMUP, binding=SimpleNamespace(guidance=None), warn=said.append
    )
    run_end = RunEnd(session)
    for has_predicted in predicted:
        state = RunState()
        if has_predicted:
            state.record.predicted = 1
        run_end.conclude(state, whole=False, brief=True)
    return said


def test_the_third_run_in_a_row_that_broke_off_is_said_and_none_after_it() -> None:
    assert after(False, False) == []
    assert after(False, False, True, False, False) == []
    (text,) = after(*[False] * 5)
    assert text.startswith("3 runs of Toy in a row broke off before anything was predicted")


# How it ended ---------------------------------------------------------------------------------------


def counted(evaluations: int, **fields: Any) -> RunState:
    """The state of a run in which so many evaluations were computed; `run` is the run under way."""
    state = RunState(**fields)
    for index in range(evaluations):
        state.record.event("cond", "trunk", index, "warmup")
    return state


def ended(run: Run, evaluations: int, whole: bool = False, learns: bool = False, **state: Any) -> set[str]:
    """The marks of a run's outcome; `returns` where its pipeline's call ended it."""
    outcome = outcome_of(counted(evaluations, run=run, **state), run, whole, learns, returns=learns)
    marks = ("whole", "unstepped", "relists", "teaches", "brief")
    return {mark for mark in marks if getattr(outcome, mark)}


def stepped(index: int, entries: int, **fields: Any) -> Run:
    """A run of a sampler's table that stands at this evaluation."""
    run = Run(index=index, entries=entries, **fields)
    run.expect(entries)
    return run


@pytest.mark.parametrize(
    ("run", "how", "marks"),
    [
        # The sampler's table has 4 entries, and the last step was made.
        (stepped(4, 4), {}, {"whole"}),
        # Broken off by the next run, or by the pipeline's call.
        (stepped(2, 4, calls=1), {}, set()),
        (stepped(2, 4, calls=1), {"whole": True, "learns": True}, set()),
        # The call is over after 3 evaluations: the table lists one too many.
        (stepped(3, 4), {"whole": True, "learns": True}, {"whole", "relists"}),
        (stepped(3, 4), {"whole": True}, {"whole"}),
        # `step` was not called in it.
        (stepped(0, 4, calls=3), {"whole": True, "learns": True}, {"whole", "unstepped"}),
        # A hand-written loop, whose length nothing tells.
        (Run(index=2, calls=1), {}, {"whole", "teaches"}),
        (Run(index=2, calls=1, told={2: (0.5, None)}), {}, {"whole"}),
        (Run(index=2, calls=1), {"failed": True}, set()),
        # An exception ended the call behind the table's last step.
        (stepped(4, 4), {"failed": True}, {"whole"}),
    ],
)
def test_how_a_run_ended(run: Run, how: dict[str, Any], marks: set[str]) -> None:
    assert ended(run, run.index + 1, **how) == marks


def test_a_run_of_unknown_length_is_brief_with_one_evaluation() -> None:
    assert "brief" in ended(Run(calls=1), 1)
    assert "brief" not in ended(Run(index=1, calls=1), 2)
    assert "brief" not in ended(stepped(0, 4, calls=1), 1)


def test_how_many_evaluations_it_had() -> None:
    run = stepped(2, 4, calls=1)
    outcome = outcome_of(counted(3, run=run), run, whole=False, learns=False, returns=False)
    assert (outcome.lasted, outcome.expected) == (3, 4)
