"""A sampler that belongs to no pipeline, for as long as it drives the loop."""

import gc
import weakref
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

import dcache
from dcache.identity.guest import Guest
from dcache.identity.listener import Listener
from dcache.identity.sampler import tap_of
from tests.engine.tiny_models import Toy


class Spy(Listener):
    def __init__(self) -> None:
        self.died = 0

    def orphaned(self) -> None:
        self.died += 1


def made(kind: Any = DDIMScheduler, steps: int = 4) -> Any:
    sampler = kind()
    sampler.set_timesteps(steps)
    return sampler


def follow(guest: Guest, value: float | None) -> Any:
    """A call with this timestep: its run."""
    intercept = guest.intercept
    assert intercept is not None
    assert intercept.run is not None
    run = guest.follow(intercept, intercept.run, value)
    if run is not None:
        run.calls += 1
    return run


def step(guest: Guest, sampler: Any) -> None:
    sampler.step(torch.zeros(1), sampler.timesteps[0], torch.zeros(1))


def test_a_sampler_is_adopted_with_a_run_and_left_as_it_was() -> None:
    listener, sampler = Spy(), made()
    before = set(vars(sampler))
    guest = Guest(listener)
    assert guest.intercept is None
    intercept = guest.adopt(sampler)
    assert guest.intercept is intercept is tap_of(sampler)
    assert intercept.run is not None
    assert len(intercept.run.timesteps) == 4
    # Again is the same one, and its run goes on.
    run = intercept.run
    assert guest.adopt(sampler).run is run
    guest.dismiss()
    assert guest.intercept is None
    assert set(vars(sampler)) == before


def test_another_guest_takes_its_place() -> None:
    listener = Spy()
    guest, first, second = Guest(listener), made(), made()
    guest.adopt(first)
    guest.adopt(second)
    assert tap_of(first) is None
    assert tap_of(second) is guest.intercept


def test_a_guest_is_not_kept_alive_and_its_end_is_told() -> None:
    listener, sampler = Spy(), made()
    guest = Guest(listener)
    guest.adopt(sampler)
    life = weakref.ref(sampler)
    del sampler
    gc.collect()
    assert life() is None
    assert guest.intercept is None
    assert listener.died == 1


def test_a_sampler_that_does_not_step_drives_no_loop_and_is_not_looked_at_again() -> None:
    listener, sampler = Spy(), made(FlowMatchEulerDiscreteScheduler)
    guest = Guest(listener)

    def loop(look: Any, scheduler: Any) -> Any:
        seen = look()
        if seen is None:
            return None
        return seen, scheduler.step

    assert loop(lambda: guest.search(None, lambda: None), sampler)[0] is sampler
    guest.adopt(sampler)
    assert follow(guest, 1.0) is not None
    assert follow(guest, 1.0) is not None
    # Another timestep without a step.
    assert follow(guest, 0.5) is None
    assert guest.intercept is None
    assert loop(lambda: guest.search(None, lambda: None), sampler) is None


def test_a_walk_that_begins_anew_without_set_timesteps_is_another_run() -> None:
    listener, sampler = Spy(), made()
    guest = Guest(listener)
    guest.adopt(sampler)
    first = follow(guest, 750.0)
    for value in (500.0, 250.0):
        step(guest, sampler)
        assert follow(guest, value) is first
    assert first.index == 2
    step(guest, sampler)
    second = follow(guest, 750.0)
    assert second is not first
    assert second.index == 0


def test_timesteps_that_the_table_repeats_or_that_never_change_open_no_run() -> None:
    listener, sampler = Spy(), made()
    guest = Guest(listener)
    intercept = guest.adopt(sampler)
    assert intercept.run is not None
    first = intercept.run
    first.timesteps = [9.0, 5.0, 9.0, 5.0]
    for value in (9.0, 5.0, 9.0):
        assert follow(guest, value) is first
        step(guest, sampler)
    guest.adopt(made())
    run = follow(guest, 0.0)
    for _ in range(2):
        run.calls, run.index = 0, run.index + 1
        assert follow(guest, 0.0) is run
    # A timestep that cannot be read says nothing.
    assert follow(guest, None) is run


SAMPLERS = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "PNDMScheduler",
)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_in_one_expression_with_the_call_ends_its_evaluation_as_well(name: str) -> None:
    import diffusers

    def loop(denoiser: Any, one_expression: bool, stop: int | None = None) -> torch.Tensor:
        sampler = getattr(diffusers, name)()
        sampler.set_timesteps(6)
        x = torch.full((1, 2, 4), 0.5)
        for i, t in enumerate(sampler.timesteps):
            if i == stop:
                break
            if one_expression:
                x = sampler.step(denoiser(x * 0.1, t), t, x, return_dict=False)[0]
            else:
                output = denoiser(x * 0.1, t)
                x = sampler.step(output, t, x, return_dict=False)[0]
        return x

    with torch.no_grad():
        toys = [dcache.enable(Toy(), "interval", interval=3, sites="model") for _ in range(2)]
        one, two = (loop(toy, expression) for toy, expression in zip(toys, (True, False), strict=True))
        assert torch.equal(one, two)
        first, second = (dcache.stats(toy) for toy in toys)
        assert (first.steps, first.computed, first.bytes_now) == (second.steps, second.computed, 0)
        # A cancelled loop is no part of the next one.
        loop(toys[0], True, stop=3)
        assert torch.equal(loop(toys[0], True), two)
