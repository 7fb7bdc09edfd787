"""The life of a run: what opens it, what ends it, what is freed when, and what is said at its end."""

from __future__ import annotations

import copy
import gc
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import dcache
from dcache import DcacheError, DcacheWarning, Schedule, methods
from dcache.engine.config import SessionConfig
from dcache.engine.pipeline import sessions_of
from dcache.engine.session import Session
from dcache.identity.run import Run
from tests.engine.tiny_models import BarePipe, Double, Toy, ToyPipe, integers, session_on, steps

EVERY_2 = methods.interval(interval=2, codec="delta")
ALL_WARMUP = methods.interval(interval=2, warmup=99)
# Uncached 8 (t + 1) at t = 6 to 1.
PLAIN = [56, 48, 40, 32, 24, 16]


def enabled(pipe: Any, method: Any, **options: Any) -> Session:
    """Enable a method on a pipeline; the session of its one denoiser."""
    (session,) = sessions_of(dcache.enable(pipe, method, **options)).values()
    return session


# Opening --------------------------------------------------------------------------------------------


def test_a_call_of_another_run_opens_it_and_the_last_one_is_over() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    assert session.state.run is None
    steps(toy, [4, 3])
    first = session.state
    assert first.run is not None
    steps(toy, [4])
    assert session.state is not first
    assert (first.run, first.branches, first.steps) == (None, {}, 2)
    assert (first.record.computed, first.record.predicted) == (1, 1)
    assert session.state.run is not None


def test_the_state_knows_the_sampler() -> None:
    pipe = ToyPipe(Toy())
    session = enabled(pipe, EVERY_2)
    pipe()
    assert session.state.sampler == "Countdown"
    toy = Toy()
    looping = session_on(toy, EVERY_2)
    steps(toy, [1])
    assert looping.state.sampler == ""


@pytest.mark.parametrize("count", [3, 5])
def test_a_run_of_another_length_than_the_table_is_refused_every_time(count: int) -> None:
    pipe = ToyPipe(Toy())
    session = enabled(pipe, Schedule.of_steps([0, 2], 4))
    for _ in range(2):
        with pytest.raises(
            DcacheError, match=f"schedule is for 4 evaluations and the run has {count} or more"
        ):
            pipe(count)
        # No call of it was begun, and nothing is held.
        assert session.state.run is None
        assert (session.stats().computed, session.stats().predicted) == (0, 0)
    # Also where somebody catches the error and goes on.
    pipe.scheduler.set_timesteps(count)
    for t in pipe.scheduler.timesteps:
        with pytest.raises(DcacheError, match="schedule is for 4 evaluations"), torch.no_grad():
            pipe.denoiser(torch.ones(1, 2, 4), t)
        pipe.scheduler.step(torch.ones(1), t, torch.ones(1))
    # 40, 32, 24, 16 uncached; delta: 4 + 35, 2 + 21.
    assert pipe(4) == [40, 39, 24, 23]


def test_a_run_that_strict_refuses_is_none() -> None:
    pipe = ToyPipe(Toy())
    config = SessionConfig(EVERY_2, made_with="the schedule", sampler="Euler")
    dcache.enable(pipe, EVERY_2)
    session = Session(Toy(), replace(config, strict=True))
    with pytest.raises(DcacheError, match=r"made with sampler Euler and is used with Countdown \(strict"):
        session.open_run(Run(sampler="Countdown"))
    assert session.state.run is None
    warned, run = Session(Toy(), config), Run(sampler="Countdown")
    # A warning that is an error leaves the run open: the next call belongs to it.
    with pytest.raises(DcacheWarning, match="made with sampler Euler and is used with Countdown"):
        warned.open_run(run)
    assert warned.state.run is run


def test_before_a_sampler_opens_a_run_the_last_one_is_over_and_nothing_is_said_of_the_next() -> None:
    pipe = BarePipe(Toy())
    session = enabled(pipe, EVERY_2)
    dcache.step(pipe.denoiser, 0)
    with torch.no_grad():
        pipe.denoiser(torch.ones(1, 2, 4), 4.0)
    # A guider that died has left its name behind.
    session.context = "uncond"
    assert session.state.run is not None
    assert session.tracker.manual is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DcacheWarning)
        pipe.scheduler.set_timesteps(4)
    assert session.state.run is None
    assert (session.tracker.manual, session.context) == (None, None)
    assert pipe(4) == [40, 39, 24, 23]


# Ending ---------------------------------------------------------------------------------------------


def test_once_a_run_is_over_nothing_is_held_and_the_counts_stay() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    steps(toy, [4, 3, 2])
    assert session.stats().bytes_now == 8 * 4
    run = session.state.run
    session.end_run()
    assert (session.state.run, session.state.branches, session.call) == (None, {}, None)
    assert all(region.history is None for region in session.binding.storing())
    stats = session.stats()
    assert (stats.steps, stats.computed, stats.predicted) == (3, 2, 1)
    assert (stats.bytes_now, stats.bytes_held) == (0, 8 * 4)
    # A second end is none.
    session.end_run()
    assert session.stats() == stats
    # Nor does the loop go on with what is over.
    assert run is not None
    assert integers(steps(toy, [4, 3, 2, 1])) == [40, 39, 24, 23]
    assert session.state.run is not run


def test_a_loop_that_is_ended_begins_anew() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    with torch.no_grad():
        for t in (4.0, 3.0):
            toy(torch.ones(1, 2, 4), t)
        session.end_run()
        outputs = [toy(torch.ones(1, 2, 4), t) for t in (2.0, 1.0)]
    # Evaluations 0 and 1 of a run of their own: computed, and 7 * 3 more than 2.
    assert integers(outputs) == [24, 23]
    assert session.stats().steps == 2


# Freeing --------------------------------------------------------------------------------------------


def test_what_is_freed_in_mid_run_leaves_the_counts_and_is_computed_anew() -> None:
    toy = Toy()
    session = session_on(toy, methods.interval(interval=9, codec="delta"))
    steps(toy, [4, 3])
    session.free()
    assert session.stats().bytes_now == 0
    assert session.state.record.most_bytes == 8 * 4
    assert session.state.run is not None
    assert integers(steps(toy, [2, 1], first=2)) == [24, 23]
    assert session.stats().reasons == {"warmup": 1, "no_history": 1}
    assert session.stats().predicted == 2


def test_a_denoiser_whose_turn_is_over_is_freed_behind_the_first_evaluation_without_it() -> None:
    pipe = ToyPipe(Toy(), Toy())
    dcache.enable(pipe, methods.interval(interval=9, codec="delta"))
    first, second = sessions_of(pipe).values()
    held: list[tuple[int, int]] = []

    def look() -> None:
        held.append((first.state.bytes_now(), second.state.bytes_now()))

    pipe.denoiser_1.register_forward_hook(lambda *_: look())
    pipe(6, at_step=lambda i: look())
    # While the second is first called (and checked) both hold something; the sampler's step frees the first.
    assert held == [(32, 0)] * 3 + [(32, 32)] * 2 + [(0, 32)] * 4 + [(0, 0)]
    assert (first.stats().predicted, second.stats().predicted) == (2, 2)


def test_a_pipeline_that_says_when_it_is_over_is_waited_for() -> None:
    pipe = ToyPipe(Toy())
    session = enabled(pipe, EVERY_2)
    (tap,) = session.tracker.taps
    seen: list[tuple[bool, int]] = []

    def look(_: int) -> None:
        seen.append((session.state.run is tap.run is not None, session.state.bytes_now()))

    pipe(6, at_step=look)
    # The last step frees what is of no more use, and the run goes on until the pipeline's end.
    assert seen == [(True, 32)] * 5 + [(True, 0)]
    assert tap.run is None
    assert session.state.run is None
    assert session.stats().bytes_held == 32


def test_without_such_a_pipeline_the_samplers_last_step_is_the_end() -> None:
    pipe = BarePipe(Toy())
    session = enabled(pipe, EVERY_2)
    seen: list[bool] = []
    # Uncached 56, 48, 40, ...: 7 * 7 more than 6 in evaluation 1, and so on.
    outputs = pipe(6, at_step=lambda i: seen.append(session.state.run is not None))
    assert outputs == [56, 6 + 49, 40, 4 + 35, 24, 2 + 21]
    assert seen == [True] * 5 + [False]
    assert session.stats().steps == 6


def test_another_denoisers_last_step_does_not_end_this_ones_run() -> None:
    pipe = BarePipe(Toy())
    session = enabled(pipe, EVERY_2)
    pipe.scheduler.set_timesteps(4)
    with torch.no_grad():
        pipe.denoiser(torch.ones(1, 2, 4), 4.0)
    run = session.state.run
    assert session.lifecycle.after_last(Run(count=4))
    assert session.state.run is run is not None


# Noise levels ---------------------------------------------------------------------------------------

LEVELS = (1.0, 0.7, 0.5, 0.25)


def regridded() -> tuple[ToyPipe, Session, list[float]]:
    """A pipeline with a schedule's noise levels, and the sampler's own."""
    pipe = ToyPipe(Toy(), sampler=FlowMatchEulerDiscreteScheduler())
    pipe.scheduler.set_timesteps(4)
    own = pipe.scheduler.sigmas.tolist()
    made = replace(Schedule.of_steps([0, 2], 4), sigmas=LEVELS)
    return pipe, enabled(pipe, made), own


def test_a_sampler_has_the_schedules_levels_from_its_timesteps_to_the_end_of_a_whole_run() -> None:
    pipe, session, own = regridded()
    seen: list[list[float]] = []
    for _ in range(2):
        pipe(4, at_step=lambda i: seen.append(pipe.scheduler.sigmas.tolist()))
    assert seen == [pytest.approx([*LEVELS, 0.0])] * 8
    assert pipe.scheduler.sigmas.tolist() == own
    assert session.lifecycle.noise_grid is None


def test_what_is_left_of_an_interrupted_run_keeps_its_levels() -> None:
    pipe, session, own = regridded()
    seen: list[list[float]] = []

    def act(i: int) -> None:
        if i == 1:
            dcache.disable(pipe)
        seen.append(pipe.scheduler.sigmas.tolist())

    pipe(4, at_step=act)
    assert seen == [pytest.approx([*LEVELS, 0.0])] * 4
    assert session.state.steps == 2
    # A further run has the sampler's own.
    pipe(4, at_step=lambda i: seen.append(pipe.scheduler.sigmas.tolist()))
    assert seen[4:] == [own] * 4


def test_a_run_whose_sampler_was_given_none_is_refused_and_is_no_run() -> None:
    pipe, session, _ = regridded()
    pipe.scheduler.set_timesteps(4)
    # Somebody gives it its own again.
    pipe.scheduler.sigmas = pipe.scheduler.sigmas.clone()
    with (
        pytest.raises(DcacheError, match=r"changes the noise levels of the run, and no sampler"),
        torch.no_grad(),
    ):
        pipe.denoiser(torch.ones(1, 2, 4), pipe.scheduler.timesteps[0])
    assert session.state.run is None


# What it hears --------------------------------------------------------------------------------------


def test_it_wants_to_see_what_the_sampler_is_given_only_where_a_method_learns_from_it() -> None:
    assert not session_on(Toy(), EVERY_2).lifecycle.learns
    method = replace(EVERY_2, sites=("guidance", "trunk"), uncond_from="drop")
    session = session_on(Toy(), method)
    assert session.lifecycle.learns
    assert session.binding.guidance is not None
    seen: list[torch.Tensor] = []
    session.binding.guidance.learn = seen.append  # type: ignore[method-assign]
    mixed = torch.ones(1)
    session.lifecycle.stepped(mixed)
    assert seen == [mixed]


def test_it_says_whether_one_of_its_pipelines_is_being_copied() -> None:
    pipe, other = ToyPipe(Toy()), ToyPipe(Toy())
    session = enabled(pipe, EVERY_2)
    assert session.lifecycle.is_copied({id(pipe): copy})
    assert not session.lifecycle.is_copied({id(other): copy})
    # A pipeline that is gone is not.
    del pipe
    gc.collect()
    assert not session.lifecycle.is_copied({id(None): None})


def test_what_was_put_on_the_model_since_is_noticed_when_the_sampler_opens_a_run() -> None:
    pipe = ToyPipe(Toy())
    enabled(pipe, EVERY_2)
    pipe.denoiser._is_cached = True
    with pytest.raises(DcacheError, match="another cache is already enabled on Toy: cache-dit"):
        pipe.scheduler.set_timesteps(4)
    assert pipe.begun == 0


def test_a_replaced_module_is_bound_before_a_run_opens() -> None:
    pipe = ToyPipe(Toy())
    enabled(pipe, EVERY_2)
    pipe(4)
    pipe.denoiser.blocks[1] = Double(3.0)
    # 12 h and 11 h more.
    assert pipe(4) == [60, 4 + 55, 36, 2 + 33]


def test_a_pipeline_that_does_not_say_that_its_call_is_over_is_warned_in_that_call() -> None:
    class Silent(ToyPipe):
        """It has the method that ends a call, and does not use it."""

        def end(self) -> None:
            """Say nothing."""

    pipe = Silent(Toy())
    enabled(pipe, ALL_WARMUP)
    with pytest.warns(DcacheWarning, match="nothing was predicted in this run of Toy: 6 x inside") as caught:
        assert pipe() == PLAIN
    # Nor is it said again where the next call ends that run.
    assert len(caught) == 1
    pipe()
