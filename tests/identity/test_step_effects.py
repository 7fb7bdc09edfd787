"""What each evaluation does to the final sample: closed forms of Euler and DDIM, and refusals."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from dcache.identity.step_effects import noise_level_effects, step_effects
from dcache.identity.timetable import run_from


def effects_of(sampler, steps: int = 6, start: int = 0, **given):
    sampler.set_timesteps(steps, **given)
    run = run_from(sampler)
    run.start = start
    run.expect(len(run.timesteps) - start)
    return step_effects(sampler, run), run


def test_euler_moves_the_sample_by_the_difference_of_noise_levels():
    effects, run = effects_of(FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert effects == pytest.approx(noise_level_effects(run.sigmas, 6), rel=1e-4)


def test_a_run_that_starts_late_has_the_rest_of_the_table():
    whole, _ = effects_of(FlowMatchEulerDiscreteScheduler(shift=3.0))
    late, _ = effects_of(FlowMatchEulerDiscreteScheduler(shift=3.0), start=2)
    assert late == pytest.approx(whole[2:], rel=1e-4)


def test_a_table_that_only_the_pipeline_can_make_is_copied():
    sampler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    effects, run = effects_of(sampler, mu=0.9)
    assert effects == pytest.approx(noise_level_effects(run.sigmas, 6), rel=1e-4)


@pytest.mark.parametrize("make", [DPMSolverMultistepScheduler, UniPCMultistepScheduler, DDIMScheduler])
def test_superposition_of_single_outputs_gives_the_sampler_itself(make):
    sampler = make()
    effects, run = effects_of(sampler)
    assert step_effects(sampler, run) == effects
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    # One output in evaluation 3 alone: the final sample is its effect.
    for i, t in enumerate(sampler.timesteps):
        x = sampler.step(torch.full_like(x, 1e-3 * (i == 3)), t, x, return_dict=False)[0]
    assert abs(float(x)) == pytest.approx(1e-3 * effects[3], rel=1e-4)
    assert len(effects) == run.count


def test_a_sampler_that_scales_its_input_logs_no_warning(caplog):
    from diffusers.utils import logging

    logging.enable_propagation()
    try:
        effects, run = effects_of(EulerDiscreteScheduler())
    finally:
        logging.disable_propagation()
    assert not caplog.records
    assert effects == pytest.approx(noise_level_effects(run.sigmas, 6), rel=1e-3)


def test_a_sampler_that_adds_noise_has_none():
    assert effects_of(EulerAncestralDiscreteScheduler())[0] is None


def test_what_is_no_sampler_has_none():
    _, run = effects_of(DDIMScheduler())
    assert step_effects(object(), run) is None
    run.count = None
    assert step_effects(DDIMScheduler(), run) is None


def test_noise_levels_stand_in_for_effects():
    assert noise_level_effects([1.0, 0.7, 0.2, 0.0], 3) == pytest.approx((0.3, 0.5, 0.2))
    assert noise_level_effects([1.0, 0.7, 0.2], 3) == pytest.approx((0.3, 0.5, 0.2))
    assert noise_level_effects([1.0, 0.7], 3) is None
    assert noise_level_effects([0.0, 0.0, 0.0], 2) is None
