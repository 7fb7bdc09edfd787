"""The trace: what was recorded of a run as a schedule that can be replayed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, Schedule, methods
from dcache.engine.config import SessionConfig
from dcache.engine.pipeline import sessions_of
from dcache.engine.session import Session
from dcache.engine.trace import trace_of
from dcache.identity.denoisers import config_digest
from dcache.predictors.corrections import Correction, Corrections
from tests.engine.tiny_models import BarePipe, Toy, ToyPipe, integers, session_on, steps, walk
from tests.pipelines import PIXART

LINE = methods.newton(order=1, interval=3, warmup=1, clock="step", last=False, codec="value")
TIMES = [6, 5, 4, 3, 2, 1]


def rows(schedule: Schedule | None, component: str = "") -> dict[str, dict[str, str]]:
    """Branch -> site -> C for computed and - for predicted evaluations."""
    assert schedule is not None
    plan = schedule.components[component]
    return {
        branch: {site: "".join("C" if computed else "-" for computed in row) for site, row in sites.items()}
        for branch, sites in plan.rows.items()
    }


def test_without_a_run_there_is_no_trace() -> None:
    session = session_on(Toy(), LINE)
    assert trace_of({"": session}) is None
    assert trace_of({}) is None
    # Nor where no site was reached: the first evaluation is let by here.
    toy = Toy()
    skips = Session(toy, SessionConfig(LINE, skips_first=True))
    steps(toy, TIMES[:1])
    assert skips.stats().steps == 1
    assert trace_of({"": skips}) is None


def test_a_trace_says_what_was_computed_and_how_the_rest_was_predicted() -> None:
    toy = Toy()
    toy.config = {"layers": 3}  # type: ignore[assignment]
    session = session_on(toy, LINE)
    steps(toy, TIMES)
    schedule = trace_of({"": session})
    assert rows(schedule) == {"*": {"trunk": "C--C--"}}
    assert schedule is not None
    assert (schedule.steps, schedule.method, schedule.sampler, schedule.sigmas) == (6, "newton", "", ())
    plan = schedule.components[""]
    assert (plan.codec, plan.predictor, plan.parameters, plan.clock) == (
        "value",
        "newton",
        {"order": 1},
        "step",
    )
    assert (plan.model, plan.config) == ("Toy", config_digest(toy))
    assert (plan.corrections, plan.uncond_from) == (None, "")


def test_it_is_of_the_run_under_way_as_far_as_that_is() -> None:
    toy = Toy()
    session = session_on(toy, LINE)
    steps(toy, TIMES)
    steps(toy, TIMES[:2])
    assert rows(trace_of({"": session})) == {"*": {"trunk": "C-"}}
    session.end_run()
    assert rows(trace_of({"": session})) == {"*": {"trunk": "C-"}}


def test_branches_with_equal_rows_are_one_and_others_keep_their_names() -> None:
    toy = Toy()
    session = session_on(toy, replace(LINE, sites=("block:0", "block:2")))

    def run(names: tuple[str, ...], late: str) -> None:
        for i, t in enumerate(TIMES):
            for name in names:
                dcache.step(toy, i, branch=name)
                walk(toy, [t], torch.ones(1, 2 + (name == late and i >= 2), 4))

    run(("cond", "uncond"), "")
    assert rows(trace_of({"": session})) == {"*": {"block:0": "C--C--", "block:2": "C--C--"}}
    # One that looks otherwise from evaluation 2 on is computed there.
    run(("cond", "uncond"), "uncond")
    found = rows(trace_of({"": session}))
    assert found["cond"] == {"block:0": "C--C--", "block:2": "C--C--"}
    assert found["uncond"] == {"block:0": "C-C--C", "block:2": "C-C--C"}


def test_replayed_it_computes_and_gives_the_same() -> None:
    toy = Toy()
    dcache.enable(toy, LINE)
    first = integers(steps(toy, TIMES))
    schedule = dcache.trace(toy)
    session = session_on(toy, schedule)
    assert integers(steps(toy, TIMES)) == first
    again = trace_of({"": session})
    assert again is not None
    assert again.components == schedule.components


def test_of_several_denoisers_each_has_its_plan_and_what_was_not_seen_counts_as_computed() -> None:
    pipe = ToyPipe(Toy(), Toy())
    dcache.enable(pipe, LINE)
    pipe(8)
    sessions = sessions_of(pipe)
    schedule = trace_of(sessions)
    assert schedule is not None
    assert (schedule.steps, schedule.sampler) == (8, "Countdown")
    assert list(schedule.components) == ["denoiser", "denoiser_1"]
    assert rows(schedule, "denoiser") == {"*": {"trunk": "C--CCCCC"}}
    # Its first call is in evaluation 4: nothing is remembered there.
    assert rows(schedule, "denoiser_1") == {"*": {"trunk": "CCCCC--C"}}
    # One that was never called has none.
    never = {**sessions, "other": session_on(Toy(), LINE)}
    found = trace_of(never)
    assert found is not None
    assert "other" not in found.components


def test_a_denoiser_that_stops_early_is_padded_to_the_run() -> None:
    short, long = Toy(), Toy()
    first, second = session_on(short, LINE), session_on(long, LINE)
    steps(short, TIMES[:2])
    steps(long, TIMES)
    for sessions in ({"a": first, "b": second}, {"b": second, "a": first}):
        schedule = trace_of(sessions)
        assert schedule is not None
        assert schedule.steps == 6
        assert rows(schedule, "a") == {"*": {"trunk": "C-CCCC"}}
        assert rows(schedule, "b") == {"*": {"trunk": "C--C--"}}


def test_the_guidance_scale_that_a_pipeline_does_not_keep_is_that_of_its_call() -> None:
    pipe = dcache.enable(PIXART.build(), "interval", interval=3)
    assert not hasattr(pipe, "_guidance_scale")
    for scale in (3.5, 1.0):
        PIXART.run(pipe, guidance_scale=scale)
        assert dcache.trace(pipe).guidance == scale
    schedule = dcache.trace(dcache.disable(pipe))
    dcache.enable(pipe, schedule, strict=True)
    PIXART.run(pipe, guidance_scale=1.0)
    with pytest.raises(DcacheError, match="guidance 1 and is used with 2"):
        PIXART.run(pipe, guidance_scale=2.0)


def test_the_guidance_scale_is_that_of_the_pipeline() -> None:
    pipe = BarePipe(Toy())
    dcache.enable(pipe, LINE)
    pipe._guidance_scale = 3.5
    pipe(6)
    schedule = trace_of(sessions_of(pipe))
    assert schedule is not None
    assert schedule.guidance == 3.5


@pytest.mark.parametrize("evaluations", [4, 2])
def test_only_a_whole_run_has_noise_levels_to_replay(evaluations: int) -> None:
    toy = Toy()
    levels = (1.0, 0.7, 0.5, 0.2)
    session = session_on(toy, LINE)
    steps(toy, TIMES[:evaluations])
    session.method = replace(session.method, sigmas=levels)
    schedule = trace_of({"": session})
    assert schedule is not None
    assert schedule.sigmas == (levels if evaluations == 4 else ())


def corrected(rows: dict[int, int]) -> Corrections:
    """Corrections of the trunk: evaluation -> the anchor that they were fitted for."""
    of = {t: Correction(torch.ones(4), torch.zeros(4), anchor) for t, anchor in rows.items()}
    return Corrections({"trunk": of}, {"trunk": -1})


def test_corrections_are_kept_where_a_prediction_stands_on_them() -> None:
    toy = Toy()
    session = session_on(toy, replace(LINE, corrections=corrected({1: 0, 2: 0, 4: 3, 5: 0})))
    steps(toy, TIMES)
    schedule = trace_of({"": session})
    assert schedule is not None
    # That of 5 was fitted for another anchor.
    assert schedule.components[""].corrections == corrected({1: 0, 2: 0, 4: 3})
    # A run that was cut short has no later ones, and one that predicted nothing has none.
    steps(toy, TIMES[:2])
    schedule = trace_of({"": session})
    assert schedule is not None
    assert schedule.components[""].corrections == corrected({1: 0})


def test_what_was_lowered_is_traced_as_it_became() -> None:
    toy = Toy()
    session = session_on(toy, LINE, max_cache_bytes=2 * 8 * 4 - 1)
    with pytest.warns(DcacheWarning, match="lowered"):
        steps(toy, TIMES)
    schedule = trace_of({"": session})
    assert schedule is not None
    plan = schedule.components[""]
    assert (plan.predictor, plan.parameters) == ("reuse", {})


def test_a_traced_thing_need_not_be_a_session() -> None:
    class Traced:
        """As much as a trace reads."""

        def __init__(self, session: Any) -> None:
            self.module, self.method, self.lanes = session.module, session.method, session.lanes
            self.guidance = 7.0

    toy = Toy()
    session = session_on(toy, LINE)
    steps(toy, TIMES)
    schedule = trace_of({"unet": Traced(session)})
    assert schedule is not None
    assert (schedule.guidance, list(schedule.components)) == (7.0, ["unet"])


class Numbered(nn.Module):
    """x -> 2x, beside a number."""

    def forward(self, x: torch.Tensor, number: int) -> tuple[torch.Tensor, int]:
        return x * 2, number


class Numbers(Toy):
    """8 (x + timestep) through blocks that hand a number on."""

    number = 0

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        x, number = x + timestep, self.number
        for block in self.blocks:
            x, number = block(x, number)
        return x


def test_a_run_that_gave_its_sites_up_on_the_way_has_no_trace_and_the_next_one_replays() -> None:
    model = Numbers([Numbered() for _ in range(3)])
    dcache.enable(model, methods.interval(interval=2, codec="value"))
    times = [6, 5, 4, 3, 2, 1]
    steps(model, times[:2])
    model.number = 1
    with pytest.warns(DcacheWarning, match="changes between evaluations; the whole model is remembered"):
        rest = [steps(model, [t], first=2 + i)[0] for i, t in enumerate(times[2:])]
    # 8 (1 + t): the first two are computed, for a number is seen twice. 4 is predicted from 5. The sites are
    # given up at 3, which is computed; 2 is the whole model's first, from which 1 is predicted.
    assert integers(rest) == [48, 32, 24, 24]
    assert dcache.stats(model).predicted > 0
    with pytest.raises(DcacheError, match="its sites were given up at evaluation 3"):
        dcache.trace(model)
    expected = integers(steps(model, times))
    assert expected == [56, 56, 40, 40, 24, 24]
    dcache.enable(model, dcache.trace(model))
    assert integers(steps(model, times)) == expected
