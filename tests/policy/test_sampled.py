"""A policy of a denoiser and a sampler: the chunk is that of a loop by hand."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

import dcache
from dcache import DcacheError
from dcache.policy import Sampled, Start
from tests.policies import ACTIONS, HORIZON, Decoder, made, observation

SAMPLERS = {
    "ddim": lambda: DDIMScheduler(100, clip_sample=False),
    "ddpm": lambda: DDPMScheduler(100, clip_sample=False),
    "euler": lambda: EulerDiscreteScheduler(100),
    "flow": FlowMatchEulerDiscreteScheduler,
}


@torch.no_grad()
def by_hand(net: Any, sampler: Any, cond: torch.Tensor, steps: int = 10) -> torch.Tensor:
    sampler.set_timesteps(steps)
    x = torch.randn((len(cond), HORIZON, ACTIONS), generator=torch.Generator().manual_seed(3))
    x = x * getattr(sampler, "init_noise_sigma", 1.0)
    for t in sampler.timesteps:
        scaled = sampler.scale_model_input(x, t) if hasattr(sampler, "scale_model_input") else x
        x = sampler.step(net(scaled, t, cond), t, x).prev_sample
    return x


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_chunk_is_that_of_the_loop_by_hand_and_a_warm_one_walks_the_last_levels(name: str) -> None:
    net, cond = made(Decoder), observation(1, 2)
    torch.manual_seed(9)
    expected = by_hand(net, SAMPLERS[name](), cond)
    torch.manual_seed(9)
    generator = torch.Generator().manual_seed(3)
    policy = Sampled(net, SAMPLERS[name](), (HORIZON, ACTIONS), 10, generator=generator)
    assert torch.allclose(policy(cond), expected)
    dcache.enable(net, "interval", interval=2, sites="model")
    policy(cond, Start(torch.zeros(2, HORIZON, ACTIONS), 0.4))
    assert (dcache.stats(net).steps, dcache.stats(net).predicted) == (4, 2)


@pytest.mark.parametrize("enabled_on", ["policy", "denoiser"])
def test_its_sampler_is_known_so_the_last_evaluation_is_computed_from_the_first_chunk_on(
    enabled_on: str,
) -> None:
    policy = Sampled(made(Decoder), SAMPLERS["ddim"](), (HORIZON, ACTIONS), 10)
    target = policy if enabled_on == "policy" else policy.denoiser
    dcache.enable(target, "policy_default")
    policy(observation(1))
    assert computed(target) == [0, 4, 8, 9]
    policy(observation(2), Start(torch.zeros(1, HORIZON, ACTIONS), 0.4))
    assert computed(target) == [0, 3]


def test_without_a_method_a_policy_gets_the_policies_default_and_its_denoiser_that_of_all_models() -> None:
    policy = dcache.enable(Sampled(made(Decoder), SAMPLERS["ddim"](), (HORIZON, ACTIONS), 10))
    policy(observation(1))
    assert dcache.stats(policy).method == "policy_default(interval=4)"
    dcache.enable(policy, interval=6)
    policy(observation(1))
    assert computed(policy) == [0, 6, 9]
    dcache.disable(policy)
    dcache.enable(policy.denoiser)
    policy(observation(1))
    assert dcache.stats(policy.denoiser).method == "default()"


def computed(target: Any) -> list[int]:
    """The computed evaluations of the last run."""
    (plan,) = dcache.trace(target).components.values()
    return [i for i, each in enumerate(plan.rows["*"]["trunk"]) if each]


def test_the_condition_may_be_made_of_the_observation_and_passed_by_name() -> None:
    net = made(Decoder)
    first = Sampled(
        net, SAMPLERS["ddim"](), (HORIZON, ACTIONS), 3, generator=torch.Generator().manual_seed(0)
    )
    second = Sampled(
        net,
        SAMPLERS["ddim"](),
        (HORIZON, ACTIONS),
        3,
        lambda seen: {"cond": seen["state"]},
        torch.Generator().manual_seed(0),
    )
    assert torch.equal(first(observation(1)), second({"state": observation(1)}))


def test_noise_has_the_denoisers_dtype_whatever_the_observation_has() -> None:
    class Looking(Decoder):
        def forward(self, sample: torch.Tensor, timestep: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            return super().forward(sample, timestep, image.float().flatten(1) / 255)

    policy = Sampled(made(Looking), SAMPLERS["ddim"](), (HORIZON, ACTIONS), 3)
    plain = Sampled(made(Decoder), SAMPLERS["ddim"](), (HORIZON, ACTIONS), 3)
    image = torch.randint(0, 256, (2, 5), dtype=torch.uint8)
    for given in (image, image.numpy()):
        torch.manual_seed(0)
        chunk = policy(given)
        assert chunk.dtype == torch.float32
        torch.manual_seed(0)
        assert torch.equal(chunk, plain(image / 255))
    warm = policy(image, Start(torch.full((2, HORIZON, ACTIONS), 0.5), 0.4))
    assert warm.dtype == torch.float32


def test_arrays_of_64_bits_are_taken_in_the_denoisers_dtype() -> None:
    policy = Sampled(made(Decoder), SAMPLERS["ddim"](), (HORIZON, ACTIONS), 3)
    chunks = []
    for given in (observation(1), observation(1).double().numpy()):
        torch.manual_seed(0)
        chunks.append(policy(given))
    assert torch.equal(*chunks)
    with pytest.raises(DcacheError, match=r"must be a tensor or array .* got str: give condition="):
        policy("go")


def test_a_warm_start_of_normalised_chunks_begins_in_the_samplers_scale() -> None:
    def policy(**scale: Any) -> Sampled:
        generator = torch.Generator().manual_seed(0)
        sampler = SAMPLERS["ddim"]()
        return Sampled(made(Decoder), sampler, (HORIZON, ACTIONS), 10, generator=generator, **scale)

    decode, last = (lambda chunk: 100 * chunk + 7), torch.rand(1, HORIZON, ACTIONS)
    scaled = policy(decode=decode, encode=lambda actions: (actions - 7) / 100)
    expected = policy()(observation(1), Start(last, 0.4))
    made_so = scaled(observation(1), Start(decode(last), 0.4))
    torch.testing.assert_close(made_so, decode(expected), rtol=1e-4, atol=1e-3)
    with pytest.raises(DcacheError, match="give Sampled encode="):
        policy(decode=decode)(observation(1), Start(last, 0.4))
    with pytest.raises(DcacheError, match="give decode= too"):
        policy(encode=decode)
