"""The sampler tap on diffusers' samplers."""

import copy
import gc
import inspect
import pickle
import weakref

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from dcache.identity.sampler import Listener, is_sampler, tap, tap_of

SAMPLERS = [
    DDIMScheduler,
    PNDMScheduler,
    HeunDiscreteScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
]


class Spy(Listener):
    def __init__(self):
        self.opened = 0
        self.pipes = []

    def is_copied(self, memo):
        return any(id(ref()) in memo for ref in self.pipes)

    def before_run(self):
        self.opened += 1


@pytest.fixture
def listener():
    return Spy()


def same_vars(a, b):
    return a.keys() == b.keys() and all(a[k] is b[k] for k in a)


@pytest.mark.parametrize("make", SAMPLERS)
def test_pipelines_see_the_same_signatures(make, listener):
    sampler = make()
    before = {name: inspect.signature(getattr(sampler, name)) for name in ("step", "set_timesteps")}
    tap(sampler, listener)
    assert {name: inspect.signature(getattr(sampler, name)) for name in before} == before
    assert (
        "generator" not in before["step"].parameters
        or "generator" in inspect.signature(sampler.step).parameters
    )


@pytest.mark.parametrize("make", SAMPLERS)
def test_leaving_restores_every_attribute(make, listener):
    sampler = make()
    before = dict(vars(sampler))
    watched = tap(sampler, listener)
    assert not same_vars(vars(sampler), before)
    watched.leave(listener)
    assert same_vars(vars(sampler), before)
    assert tap_of(sampler) is None
    sampler.set_timesteps(4)
    assert watched.run is None


@pytest.mark.parametrize("make", SAMPLERS)
def test_the_tap_changes_no_number(make, listener):
    outputs = []
    for watch in (False, True):
        sampler = make()
        if watch:
            tap(sampler, listener)
        sampler.set_timesteps(4)
        x = torch.linspace(-1, 1, 8)[None]
        for t in sampler.timesteps:
            if hasattr(sampler, "scale_model_input"):
                sampler.scale_model_input(x, t)
            x = sampler.step(0.1 * x, t, x).prev_sample
        outputs.append(x)
    assert torch.equal(*outputs)


def test_a_step_without_a_denoiser_call_is_no_evaluation(listener):
    sampler = DDIMScheduler()
    watched = tap(sampler, listener)
    sampler.set_timesteps(3)
    x = torch.zeros(1, 4)
    sampler.step(x, sampler.timesteps[0], x)
    assert watched.run.index == 0
    watched.run.calls = 2
    sampler.step(x, sampler.timesteps[0], x)
    assert (watched.run.index, watched.run.calls) == (1, 0)


def test_set_timesteps_opens_a_run_and_tells_before(listener):
    sampler = DDIMScheduler()
    watched = tap(sampler, listener)
    assert watched.run is None
    sampler.set_timesteps(3)
    first, touched = watched.run, watched.touched
    assert (listener.opened, first.index, len(first.timesteps)) == (1, 0, 3)
    sampler.set_timesteps(5)
    assert watched.run is not first
    assert len(watched.run.timesteps) == 5
    assert listener.opened == 2
    assert watched.touched > touched
    watched.close()
    assert watched.run is None


def test_a_set_timesteps_that_fails_opens_no_run(listener):
    sampler = DDIMScheduler()
    watched = tap(sampler, listener)
    with pytest.raises(ValueError, match="num_inference_steps"):
        sampler.set_timesteps(10**6)
    assert watched.run is None


def test_listeners_share_one_tap_and_the_last_one_takes_it_off(listener):
    sampler, other = DDIMScheduler(), Spy()
    before = dict(vars(sampler))
    watched = tap(sampler, listener)
    assert tap(sampler, other) is watched
    assert tap_of(sampler) is watched
    sampler.set_timesteps(2)
    assert (listener.opened, other.opened) == (1, 1)
    watched.leave(listener)
    assert tap_of(sampler) is watched
    sampler.set_timesteps(2)
    assert (listener.opened, other.opened) == (1, 2)
    watched.leave(other)
    watched.leave(other)
    assert vars(sampler).keys() == before.keys() | {"timesteps", "num_inference_steps"}


def test_a_listener_that_is_gone_hears_nothing():
    sampler = DDIMScheduler()
    watched = tap(sampler, Spy())
    gc.collect()
    assert tap_of(sampler) is None
    sampler.set_timesteps(2)
    assert watched.run is None


@pytest.mark.parametrize("make", SAMPLERS)
def test_a_deep_copy_steps_on_its_own_state_and_counts_the_same_evaluation_once(make, listener):
    # LTX2 copies its scheduler for the sound and steps both after one denoiser call.
    sampler = make()
    watched = tap(sampler, listener)
    sampler.set_timesteps(4)
    second = copy.deepcopy(sampler)
    assert inspect.signature(second.step) == inspect.signature(sampler.step)
    x = y = torch.ones(1, 4)
    reference = make()
    reference.set_timesteps(4)
    r = torch.ones(1, 4)
    for i, t in enumerate(sampler.timesteps):
        assert watched.run.index == i
        watched.run.calls += 1
        for each in (sampler, second, reference):
            if hasattr(each, "scale_model_input"):
                each.scale_model_input(x, t)
        x = sampler.step(0.2 * x, t, x).prev_sample
        y = second.step(0.5 * y, t, y).prev_sample
        r = reference.step(0.5 * r, t, r).prev_sample
    assert watched.run.index == len(sampler.timesteps)
    # The copy had its own multistep memory: it walked as an untouched sampler does.
    assert torch.equal(y, r)
    assert not torch.equal(x, y)


def test_a_copy_outlives_the_tap(listener):
    sampler = DDIMScheduler()
    watched = tap(sampler, listener)
    second = copy.deepcopy(sampler)
    watched.leave(listener)
    second.set_timesteps(3)
    x = torch.ones(1, 4)
    assert second.step(x, second.timesteps[0], x).prev_sample.shape == x.shape
    assert watched.run is None
    assert tap_of(second) is None


def test_a_sampler_copied_with_its_pipe_is_another(listener):
    class Pipe:
        def __init__(self, scheduler):
            self.scheduler = scheduler

    pipe = Pipe(DDIMScheduler())
    listener.pipes.append(weakref.ref(pipe))
    watched = tap(pipe.scheduler, listener)
    pipe.scheduler.set_timesteps(4)
    twin = copy.deepcopy(pipe).scheduler
    assert tap_of(twin) is None
    twin.set_timesteps(2)
    assert len(watched.run.timesteps) == 4
    watched.run.calls = 1
    x = torch.ones(1, 4)
    twin.step(x, twin.timesteps[0], x)
    assert (watched.run.index, watched.run.calls) == (0, 1)
    other = Spy()
    assert tap(twin, other) is not watched
    assert (listener.opened, other.opened) == (1, 0)


def test_a_copy_may_be_tapped_by_itself(listener):
    sampler = DDIMScheduler()
    watched = tap(sampler, listener)
    second = copy.deepcopy(sampler)
    assert tap_of(second) is None
    other = Spy()
    own = tap(second, other)
    second.set_timesteps(3)
    assert (listener.opened, other.opened) == (0, 1)
    assert watched.run is None
    assert len(own.run.timesteps) == 3


def test_a_copy_may_open_the_run(listener):
    sampler = FlowMatchEulerDiscreteScheduler()
    watched = tap(sampler, listener)
    second = copy.deepcopy(sampler)
    second.set_timesteps(7)
    assert len(watched.run.timesteps) == 7
    assert len(sampler.timesteps) != 7


@pytest.mark.parametrize("make", SAMPLERS)
def test_a_pickled_sampler_is_an_untapped_one(make, listener):
    sampler = make()
    watched = tap(sampler, listener)
    sampler.set_timesteps(8)
    twin = pickle.loads(pickle.dumps(sampler))
    assert tap_of(twin) is None
    twin.set_timesteps(4)
    assert len(watched.run.timesteps) == len(sampler.timesteps) > len(twin.timesteps)
    assert twin.step.__self__ is twin
    assert inspect.signature(twin.step) == inspect.signature(make().step)


def test_save_and_from_config_know_nothing_of_the_tap(listener, tmp_path):
    sampler = EulerDiscreteScheduler()
    tap(sampler, listener)
    sampler.save_pretrained(tmp_path)
    for again in (
        EulerDiscreteScheduler.from_pretrained(tmp_path),
        DDIMScheduler.from_config(sampler.config),
    ):
        assert "step" not in vars(again)


def test_open_from_reads_a_sampler_that_is_already_set(listener):
    sampler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    sampler.set_timesteps(5)
    run = tap(sampler, listener).open_from(sampler)
    assert list(run.timesteps) == pytest.approx(sampler.timesteps.tolist())
    assert list(run.sigmas) == pytest.approx(sampler.sigmas.tolist())
    assert run.flow
    assert not run.started


def test_what_looks_like_a_sampler():
    assert is_sampler(DDIMScheduler())
    assert not is_sampler(torch.optim.SGD([torch.zeros(1, requires_grad=True)]))
    assert not is_sampler(None)
