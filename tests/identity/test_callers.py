"""The sampler of a loop, found in the frames of its functions."""

import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from dcache.identity.callers import CallMark, LoopVariable, call_frame, find_sampler, is_within_call
from dcache.identity.listener import Listener
from dcache.identity.sampler import tap


def nothing() -> None:
    """No timestep can be read."""


def made(steps: int = 4, kind: Any = DDIMScheduler) -> Any:
    sampler = kind()
    sampler.set_timesteps(steps)
    return sampler


def local_loop(scheduler: Any, look: Any) -> Any:
    """A loop with the sampler in a variable."""
    seen = look()
    scheduler.step(torch.zeros(1), scheduler.timesteps[0], torch.zeros(1))
    return seen


class Pipe:
    """A loop with the sampler in an attribute, and another sampler beside it."""

    def __init__(self, scheduler: Any, prior_scheduler: Any = None) -> None:
        self.scheduler, self.prior_scheduler = scheduler, prior_scheduler

    def run(self, look: Any) -> Any:
        seen = look()
        self.scheduler.step(torch.zeros(1), self.scheduler.timesteps[0], torch.zeros(1))
        return seen

    def run_both(self, look: Any) -> Any:
        seen = look()
        for sampler in (self.prior_scheduler, self.scheduler):
            sampler.step(torch.zeros(1), sampler.timesteps[0], torch.zeros(1))
        return seen


def test_a_sampler_in_a_variable() -> None:
    sampler = made()
    seen, variable = local_loop(sampler, lambda: find_sampler(None, nothing))
    assert seen is sampler
    assert variable == LoopVariable(local_loop.__code__, "scheduler", "")


def test_a_sampler_in_an_attribute() -> None:
    sampler = made()
    seen, variable = Pipe(sampler).run(lambda: find_sampler(None, nothing))
    assert seen is sampler
    assert variable == LoopVariable(Pipe.run.__code__, "self", "scheduler")


def test_a_loop_that_does_not_step_has_none() -> None:
    def loop(scheduler: Any) -> Any:
        return find_sampler(None, nothing), len(scheduler.timesteps)

    assert loop(made())[0] is None


@pytest.mark.parametrize(
    "sampler",
    [
        DDIMScheduler(),
        SimpleNamespace(timesteps=[1.0], step=print),
        SimpleNamespace(set_timesteps=print, step=print),
    ],
    ids=["was not set", "no sampler", "no table"],
)
def test_what_has_no_table_for_a_run_drives_none(sampler: Any) -> None:
    def loop(scheduler: Any) -> Any:
        seen = find_sampler(None, nothing)
        if seen is not None:
            scheduler.step()
        return seen

    assert loop(sampler) is None


def test_the_innermost_loop_counts() -> None:
    outer, inner = made(), made(kind=EulerDiscreteScheduler)
    seen, _ = local_loop(outer, lambda: Pipe(inner).run(lambda: find_sampler(outer, nothing)))
    assert seen is inner


def test_of_two_samplers_the_one_that_is_wanted_counts_and_else_the_one_whose_table_fits() -> None:
    # Timesteps 666, 333, 0 and 750, 500, 250, 0.
    prior, sampler = made(3), made(4)
    pipe = Pipe(sampler, prior)
    assert pipe.run_both(lambda: find_sampler(sampler, nothing))[0] is sampler
    assert pipe.run_both(lambda: find_sampler(prior, nothing))[0] is prior
    assert pipe.run_both(lambda: find_sampler(None, lambda: 666.0))[0] is prior
    assert pipe.run_both(lambda: find_sampler(None, lambda: 500.0))[0] is sampler
    # As Flux and as Lumina take them.
    assert pipe.run_both(lambda: find_sampler(None, lambda: 0.5))[0] is sampler
    assert pipe.run_both(lambda: find_sampler(None, lambda: 1 - 0.666))[0] is prior


class TwoStages:
    """Two loops in one function, each with a sampler of its own, as in UnCLIP."""

    def __init__(self, first: Any, second: Any) -> None:
        self.second_scheduler, self.first_scheduler = second, first

    def run(self, look: Any) -> list[Any]:
        seen = [look()]
        self.first_scheduler.step(torch.zeros(1), self.first_scheduler.timesteps[0], torch.zeros(1))
        seen.append(look())
        self.second_scheduler.step(torch.zeros(1), self.second_scheduler.timesteps[0], torch.zeros(1))
        return seen


def test_of_two_samplers_whose_tables_fit_the_one_counts_whose_step_comes_next() -> None:
    # 0 is the last timestep of both.
    for first, second in ((made(3), made(4)), (made(4), made(3))):
        seen = TwoStages(first, second).run(lambda: find_sampler(None, lambda: 0.0))
        assert [place[0] for place in seen] == [first, second]


def test_one_that_walked_through_its_table_counts_after_one_that_did_not() -> None:
    walked, sampler, listener = made(3), made(4), Listener()
    watched = tap(walked, listener)

    try:
        # The one that steps next has no run under way.
        assert TwoStages(walked, sampler).run(lambda: find_sampler(None, lambda: 0.0))[0][0] is sampler
        walked.set_timesteps(3)
        assert TwoStages(walked, sampler).run(lambda: find_sampler(None, lambda: 0.0))[0][0] is walked
    finally:
        watched.leave(listener)


def test_a_variable_says_whether_the_loop_is_still_the_samplers() -> None:
    first, second = Pipe(made()), Pipe(made())
    _, variable = first.run(lambda: find_sampler(None, nothing))
    assert first.run(variable.sampler) is first.scheduler
    assert second.run(variable.sampler) is second.scheduler
    assert variable.sampler() is None
    _, direct = local_loop(first.scheduler, lambda: find_sampler(None, nothing))
    assert local_loop(second.scheduler, direct.sampler) is second.scheduler


def test_a_call_is_told_by_its_frame() -> None:
    def outer(again: int) -> list[Any]:
        return [call_frame(outer.__code__), *(outer(again - 1) if again else [])]

    first, second = outer(1)
    assert None not in (first, second)
    assert first != second
    assert call_frame(outer.__code__) is None


def test_looking_keeps_no_variable_alive_and_changes_none() -> None:
    class Large:
        """Something that the loop deletes."""

    sampler = made()

    def loop(scheduler: Any) -> tuple[Any, Any, Any]:
        large, kept = Large(), Large()
        life = weakref.ref(large)
        _, variable = find_sampler(None, nothing)
        seen = variable.sampler()
        assert isinstance(large, Large)
        del large
        scheduler.step(torch.zeros(1), scheduler.timesteps[0], torch.zeros(1))
        return life(), seen, kept

    gone, seen, kept = loop(sampler)
    assert gone is None
    assert seen is sampler
    assert isinstance(kept, Large)


def test_only_within_its_call_a_pipeline_is_being_called() -> None:
    class Called:
        def __call__(self) -> bool:
            return is_within_call(self)

    assert Called()()
    assert not is_within_call(Called())
    assert not is_within_call(len)


def test_a_mark_is_that_of_the_same_frame_and_of_the_same_object() -> None:
    class State:
        """What a call makes for itself."""

    state, other = State(), State()
    mark = CallMark(state=weakref.ref(state))
    assert mark.is_of(CallMark(state=weakref.ref(state)))
    assert not mark.is_of(CallMark(state=weakref.ref(other)))
    assert not mark.is_of(None)
    assert not mark.is_of(CallMark(5))
    assert CallMark(5).is_of(CallMark(5))
    assert not CallMark(5).is_of(CallMark(6))
    # A call that is over is none that goes on.
    before = CallMark(state=weakref.ref(state))
    del state
    assert not CallMark(state=weakref.ref(other)).is_of(before)
