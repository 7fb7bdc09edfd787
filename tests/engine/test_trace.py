"""The trace of a run: what was computed, by which method, on which model; also where it was cut short."""

from types import SimpleNamespace
from typing import Any

import torch

from dcache import methods
from dcache.engine.record import Record
from dcache.engine.run_state import RunState
from dcache.engine.trace import trace_of
from dcache.method import Method
from dcache.predictors.corrections import Correction, Corrections
from dcache.schedulers import Every
from tests.engine.tiny_models import Toy

NEWTON = methods.newton(interval=2, order=1, sites="trunk", codec="delta", clock="step")


def session(method: Method, events: dict[str, str], steps: int, guidance: float | None = None) -> Any:
    """What a trace reads of a session: branch -> one character for each evaluation of the trunk."""
    record = Record(steps=steps)
    for branch, marks in events.items():
        for i, mark in enumerate(marks):
            record.event(branch, "trunk", i, "interval" if mark == "#" else None)
    state = RunState(sampler="Euler", record=record)
    return SimpleNamespace(module=Toy(), method=method, state=state, guidance=guidance)


def test_a_run_becomes_a_schedule_with_everything_that_decides_it() -> None:
    schedule = trace_of({"transformer": session(NEWTON, {"cond": "#.#.", "uncond": "##.."}, 4, 3.5)})
    assert schedule is not None
    assert (schedule.steps, schedule.method, schedule.sampler, schedule.guidance) == (
        4,
        "newton",
        "Euler",
        3.5,
    )
    plan = schedule.components["transformer"]
    assert (plan.codec, plan.predictor, plan.parameters, plan.clock) == (
        "delta",
        "newton",
        {"order": 1},
        "step",
    )
    assert plan.model == "Toy"
    assert plan.rows == {
        "cond": {"trunk": (True, False, True, False)},
        "uncond": {"trunk": (True, True, False, False)},
    }


def test_branches_that_decided_alike_are_one() -> None:
    schedule = trace_of({"": session(NEWTON, {"0": "#.#.", "1": "#.#."}, 4)})
    assert schedule is not None
    assert schedule.components[""].rows == {"*": {"trunk": (True, False, True, False)}}
    assert schedule.guidance is None


def test_where_nothing_was_recorded_there_is_no_trace() -> None:
    assert trace_of({}) is None
    assert trace_of({"": session(NEWTON, {}, 4)}) is None
    assert trace_of({"": session(NEWTON, {"0": "#"}, 0)}) is None


def test_denoisers_that_took_turns_are_as_long_as_the_longest() -> None:
    first, second = session(NEWTON, {"0": "#."}, 2), session(NEWTON, {"0": "#.#."}, 4)
    schedule = trace_of({"high": first, "low": second})
    assert schedule is not None
    assert schedule.steps == 4
    # What a denoiser was not called for counts as computed.
    assert schedule.components["high"].rows == {"*": {"trunk": (True, False, True, True)}}


def test_noise_levels_of_a_run_that_was_cut_short_are_left_out() -> None:
    levels = (1.0, 0.75, 0.5, 0.25, 0.0)
    method = Method("mine", rule=Every(2), sigmas=levels, steps=4)
    whole = trace_of({"": session(method, {"0": "#.#."}, 4)})
    short = trace_of({"": session(method, {"0": "#."}, 2)})
    assert whole is not None
    assert short is not None
    assert (whole.sigmas, short.sigmas) == (levels, ())


def test_corrections_are_those_that_the_run_stood_on() -> None:
    def row(anchor: int) -> Correction:
        return Correction(torch.ones(2), torch.zeros(2), anchor)

    table = Corrections({"trunk": {1: row(0), 3: row(2), 5: row(4)}}, {"trunk": -1})
    method = Method("mine", rule=Every(2), corrections=table, sites=("trunk",))
    schedule = trace_of({"": session(method, {"0": "#.#."}, 4)})
    assert schedule is not None
    kept = schedule.components[""].corrections
    assert kept is not None
    assert list(kept.table["trunk"]) == [1, 3]
