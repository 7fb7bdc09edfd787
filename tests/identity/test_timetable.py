"""Which entries of a sampler's table are evaluations: counted by hand."""

from typing import Any

import pytest
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    RePaintScheduler,
    SCMScheduler,
)

from dcache.identity.timetable import run_from


@pytest.mark.parametrize(
    ("make", "steps", "evaluations"),
    [
        (DDIMScheduler, 6, 6),
        (EulerDiscreteScheduler, 6, 6),
        (FlowMatchEulerDiscreteScheduler, 6, 6),
        # Each step but the last evaluates twice, at two entries of one value.
        (HeunDiscreteScheduler, 6, 11),
        (HeunDiscreteScheduler, 2, 3),
        # The second entry twice.
        (lambda: PNDMScheduler(skip_prk_steps=True), 6, 7),
        (lambda: PNDMScheduler(skip_prk_steps=True), 2, 3),
    ],
)
def test_every_entry_is_an_evaluation(make: Any, steps: int, evaluations: int) -> None:
    sampler = make()
    sampler.set_timesteps(steps)
    run = run_from(sampler)
    assert list(run.timesteps) == [float(t) for t in sampler.timesteps]
    assert len(run.timesteps) == evaluations
    assert (run.sampler, run.start, run.index, run.started) == (type(sampler).__name__, 0, 0, False)


@pytest.mark.parametrize("steps", [2, 6])
def test_a_table_that_ends_with_the_clean_picture_has_one_evaluation_less(steps: int) -> None:
    sampler = SCMScheduler()
    sampler.set_timesteps(steps, **({} if steps == 2 else {"intermediate_timesteps": None}))
    assert len(sampler.timesteps) == steps + 1
    assert list(run_from(sampler).timesteps) == [float(t) for t in sampler.timesteps[:-1]]


def test_a_grid_of_flow_matching_that_has_its_own_end_has_one_evaluation_less() -> None:
    sampler = FlowMatchEulerDiscreteScheduler()
    sampler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.0])
    assert list(run_from(sampler).timesteps) == [1000.0, 750.0, 500.0]


def test_of_a_table_that_goes_up_and_down_the_entries_on_the_way_down_are_evaluations() -> None:
    sampler = RePaintScheduler(num_train_timesteps=6)
    sampler.set_timesteps(6, jump_length=2, jump_n_sample=2)
    # Up from 2 to 4 and from 0 to 2 without the denoiser.
    assert sampler.timesteps.tolist() == [5, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0]
    assert list(run_from(sampler).timesteps) == [5, 4, 3, 2, 3, 2, 1, 0, 1, 0]


def test_noise_levels_belong_to_the_entries_that_are_left() -> None:
    class Rising:
        """A table from 1 to 0 with its noise levels, as Wuerstchen's."""

        timesteps = (1.0, 0.5, 0.0)
        sigmas = (3.0, 2.0, 1.0)

    run = run_from(Rising())
    assert (list(run.timesteps), list(run.sigmas)) == ([1.0, 0.5], [3.0, 2.0])


def test_noise_levels_of_another_length_are_none() -> None:
    class Short:
        timesteps = (9.0, 5.0, 1.0)
        sigmas = (2.0,)
        alphas_cumprod = (0.9, 0.8)

    run = run_from(Short())
    assert (list(run.timesteps), list(run.sigmas), list(run.alphas_cumprod)) == ([9, 5, 1], [], [0.9, 0.8])


def test_a_sampler_without_tables_opens_a_run_of_unknown_length() -> None:
    run = run_from(object())
    assert (list(run.timesteps), list(run.sigmas), run.count, run.flow) == ([], [], None, False)
