"""Noise levels that are not the sampler's own: what samplers make of them, and which refuse them."""

import diffusers
import pytest
import torch

from dcache.errors import DcacheError
from dcache.identity.noise_grid import put
from dcache.schedule.noise_levels import adjusted

TRAIN = 1000


def grid(steps, rng=None):
    middle = sorted((rng.random() for _ in range(steps - 1)), reverse=True) if rng else None
    return [1.0, *(middle or [1 - i / steps for i in range(1, steps)]), 0.0]


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SAMPLERS = {
    "euler": diffusers.FlowMatchEulerDiscreteScheduler,
    "euler-shift": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "dpm": lambda: diffusers.DPMSolverMultistepScheduler(**FLOW),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(**FLOW, flow_shift=3.0),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [6, 7, 20])
def test_its_own_levels_change_no_bit_of_a_sampler(name, steps):
    sampler = SAMPLERS[name]()
    sampler.set_timesteps(steps)
    sigmas, timesteps = sampler.sigmas.clone(), sampler.timesteps.clone()
    for given in (sigmas.tolist(), sigmas.tolist()[:-1]):
        made = put(sampler, given)
        assert made.holds
        assert torch.equal(sampler.sigmas, sigmas)
        assert torch.equal(sampler.timesteps, timesteps)
        assert (sampler.sigmas.dtype, sampler.timesteps.dtype) == (sigmas.dtype, timesteps.dtype)


@pytest.mark.parametrize("name", SAMPLERS)
def test_timesteps_follow_and_can_be_given_back(name):
    sampler = SAMPLERS[name]()
    sampler.set_timesteps(6)
    own = (sampler.sigmas, sampler.timesteps)
    wanted = adjusted(sampler.sigmas.tolist(), [1, 0.5, 0.7, 1, 0.5, 1])
    made = put(sampler, wanted)
    assert sampler.sigmas.tolist() == pytest.approx(wanted, abs=1e-6)
    assert sampler.timesteps.tolist() == pytest.approx([TRAIN * s for s in wanted[:-1]], abs=1.0)
    x, noise = torch.ones(1, 2), torch.randn(1, 2, generator=torch.Generator().manual_seed(0))
    # A straight way to x = 1 is walked exactly whatever the levels: the velocity is noise - x.
    level = float(sampler.sigmas[0])
    z = (1 - level) * x + level * noise
    for t in sampler.timesteps:
        z = sampler.step(noise - x, t, z, return_dict=False)[0]
    assert torch.allclose(z, x, atol=2e-3)
    made.restore()
    assert sampler.sigmas is own[0]
    assert sampler.timesteps is own[1]
    sampler.set_timesteps(6)
    made.restore()
    assert sampler.sigmas is not own[0]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (diffusers.DDIMScheduler, "it has no noise levels"),
        (diffusers.EulerDiscreteScheduler, "do not fall from 1 to 0"),
        (diffusers.DPMSolverMultistepScheduler, "do not fall from 1 to 0"),
        (diffusers.FlowMatchHeunDiscreteScheduler, "one for each timestep"),
        (lambda: diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "do not fall from 1 to 0"),
    ],
)
def test_samplers_whose_timesteps_are_no_noise_levels_are_refused(make, says):
    sampler = make()
    sampler.set_timesteps(6)
    with pytest.raises(DcacheError, match=f"{type(sampler).__name__} cannot be given any: .*{says}"):
        put(sampler, grid(6))


def test_timesteps_of_another_kind_are_refused():
    sampler = SAMPLERS["euler"]()
    sampler.set_timesteps(6)
    sampler.timesteps = sampler.timesteps - 40
    with pytest.raises(DcacheError, match="timesteps are not its noise levels times 1000"):
        put(sampler, grid(6))


def test_levels_for_another_run_are_refused():
    sampler = SAMPLERS["dpm"]()
    sampler.set_timesteps(6)
    own = sampler.sigmas.tolist()
    with pytest.raises(DcacheError, match=r"has 5 noise levels .* makes 6 steps"):
        put(sampler, grid(6)[:5])
    with pytest.raises(DcacheError, match=r"from 0.9 to 0 and DPMSolverMultistepScheduler's from 0.999"):
        put(sampler, [0.9, *own[1:]])
    with pytest.raises(DcacheError, match="two of this schedule's noise levels are one timestep"):
        put(sampler, [own[0], own[1], own[1] - 1e-4, *own[3:]])
    assert sampler.sigmas.tolist() == own
