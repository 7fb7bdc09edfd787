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

from dcache.identity.listener import Listener
from dcache.identity.sampler import is_sampler, tap, tap_of

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


# Where a sampler stands ------------------------------------------------------------------------------


def evaluation(watched, calls=1):
    """A denoiser call, as the tracker sees it: the evaluation and the view that it belongs to."""
    run = watched.run
    if not run.calls:
        state = vars(watched.sampler)
        if state.get("_dcache_ended") != watched.ended or state.get(watched.index_name) != watched.own_index:
            watched.follow(run)
        else:
            run.view = 0
    run.calls += calls
    return run.index, run.view


def advance(sampler, i):
    x = torch.ones(1, 4)
    t = sampler.timesteps[i]
    if hasattr(sampler, "scale_model_input"):
        sampler.scale_model_input(x, t)
    return sampler.step(0.1 * x, t, x).prev_sample


@pytest.mark.parametrize("make", SAMPLERS)
def test_a_step_that_finds_the_state_set_back_ends_no_further_evaluation(make, listener):
    """MultiDiffusion: three views walk on copies of the sampler's attributes; multistep memory is theirs."""
    sampler, plain = make(), make()
    watched = tap(sampler, listener)
    for each in (sampler, plain):
        each.set_timesteps(4)
    watched.run.place(float(sampler.timesteps[0]), watched.begin_index())
    states = [copy.deepcopy(vars(sampler))] * 3
    seen, outputs = [], []
    for i in range(len(sampler.timesteps)):
        for view in range(3):
            vars(sampler).update(states[view])
            seen.append(evaluation(watched))
            outputs.append(advance(sampler, i))
            states[view] = copy.deepcopy(vars(sampler))
        expected = advance(plain, i)
        assert all(torch.equal(output, expected) for output in outputs[-3:])
    count = len(plain.timesteps)
    assert seen == [(i, view) for i in range(count) for view in range(3)]
    # The last view's last step is the end.
    assert watched.run is None
    watched.leave(listener)
    assert "_dcache_ended" not in vars(sampler)


def test_a_sampler_whose_own_index_alone_is_set_back_is_followed(listener):
    sampler = FlowMatchEulerDiscreteScheduler()
    watched = tap(sampler, listener)
    sampler.set_timesteps(4)
    seen = []
    for i in range(4):
        for view in range(2):
            if view:
                sampler._step_index -= 1
            seen.append(evaluation(watched))
            advance(sampler, i)
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]


def test_a_sampler_that_looks_its_index_up_anew_is_not_set_back(listener):
    sampler = EulerDiscreteScheduler()
    watched = tap(sampler, listener)
    sampler.set_timesteps(4)
    seen = []
    for i in range(4):
        sampler._step_index = None
        seen.append(evaluation(watched))
        advance(sampler, i)
    assert seen == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_a_restart_goes_on_counting_with_the_noise_levels_it_went_back_to(listener):
    sampler = FlowMatchEulerDiscreteScheduler()
    watched = tap(sampler, listener)
    sampler.set_timesteps(5)
    run = watched.run
    run.place(None, 0)
    sigmas = []
    for i in (0, 1, 2, 3, 1, 2, 3, 4):
        if sampler._step_index is not None and sampler._step_index != i:
            # Back to the noise of the second evaluation: three of them are made again.
            sampler._step_index = i
        evaluation(watched)
        sigmas.append(run.clock("sigma"))
        advance(sampler, i)
    assert sigmas == [float(sampler.sigmas[i]) for i in (0, 1, 2, 3, 1, 2, 3, 4)]
    assert (run.index, run.count, run.entries) == (8, 8, 5)


@pytest.mark.parametrize(
    ("make", "evaluations"), [(lambda: PNDMScheduler(skip_prk_steps=True), 7), (HeunDiscreteScheduler, 11)]
)
def test_samplers_that_repeat_timesteps_end_an_evaluation_with_every_step(make, evaluations, listener):
    sampler = make()
    watched = tap(sampler, listener)
    sampler.set_timesteps(6)
    assert len(set(sampler.timesteps.tolist())) < len(sampler.timesteps)
    seen = []
    for i in range(len(sampler.timesteps)):
        seen.append(evaluation(watched))
        advance(sampler, i)
    assert seen == [(i, 0) for i in range(evaluations)]


def test_a_late_start_is_read_from_the_first_step_where_the_denoiser_takes_no_timestep(listener):
    sampler = DDIMScheduler()
    watched = tap(sampler, listener)
    sampler.set_timesteps(10)
    run = watched.run
    run.place(None, None)
    assert (run.start, run.count) == (0, 10)
    evaluation(watched)
    advance(sampler, 6)
    assert (run.start, run.count) == (6, 4)


def test_a_run_that_was_joined_in_the_middle_began_where_the_samplers_index_says(listener):
    sampler = FlowMatchEulerDiscreteScheduler()
    sampler.set_timesteps(6)
    sampler.set_begin_index(1)
    assert tap(sampler, listener).begin_index() == 1
    advance(sampler, 1)
    watched = tap(sampler, listener)
    watched.open_from(sampler)
    assert watched.begin_index() == 2
