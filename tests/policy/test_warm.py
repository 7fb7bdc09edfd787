"""Warm starts: how a chunk is moved on and noised, by integers and closed forms."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from dcache import DcacheError
from dcache.policy import WarmStart, moved_on, warm_start

CHUNK = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])


@pytest.mark.parametrize(("shift", "first"), [(0, [1, 2, 3]), (1, [2, 3, 3]), (2, [3, 3, 3])])
def test_a_chunk_is_moved_on_and_its_last_action_repeated(shift: int, first: list[float]) -> None:
    assert moved_on(CHUNK, shift)[:, 0].tolist() == first
    assert moved_on(CHUNK[None], shift)[0, :, 1].tolist() == [10 * x for x in first]


@pytest.mark.parametrize("shift", [-1, 3])
def test_a_shift_beyond_the_chunk_is_an_error(shift: int) -> None:
    with pytest.raises(DcacheError, match="0 to 2 actions of a chunk of 3"):
        moved_on(CHUNK, shift)


def test_the_sample_has_the_noise_of_the_first_level_that_is_left() -> None:
    sampler = DDIMScheduler(100)
    sampler.set_timesteps(10)
    sample, left = warm_start(CHUNK[None], 1, 0.4, sampler, torch.Generator().manual_seed(0))
    assert left.tolist() == sampler.timesteps[-4:].tolist()
    kept = sampler.alphas_cumprod[left[0]]
    noise = torch.randn((1, 3, 2), generator=torch.Generator().manual_seed(0))
    expected = kept.sqrt() * moved_on(CHUNK, 1)[None] + (1 - kept).sqrt() * noise
    assert torch.allclose(sample, expected)


def test_of_a_flow_the_sample_lies_between_chunk_and_noise() -> None:
    sampler = FlowMatchEulerDiscreteScheduler()
    sampler.set_timesteps(4)
    sample, left = warm_start(CHUNK[None], 0, 0.5, sampler, torch.Generator().manual_seed(0))
    assert len(left) == 2
    sigma = sampler.sigmas[2]
    noise = torch.randn((1, 3, 2), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(sample, (1 - sigma) * CHUNK[None] + sigma * noise)


def test_numbers_out_of_range_and_samplers_without_noise_are_errors() -> None:
    for make in (lambda: WarmStart(0.0), lambda: WarmStart(1.1), lambda: WarmStart(0.5, 0)):
        with pytest.raises(DcacheError):
            make()

    class Plain:
        timesteps = torch.arange(3)

    with pytest.raises(DcacheError, match="Plain has neither add_noise nor scale_noise"):
        warm_start(CHUNK, 0, 0.5, Plain())
