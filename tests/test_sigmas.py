"""Changed noise levels: what they add up to, and what samplers make of them."""

import itertools
import random

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


def lengths(sigmas):
    return [a - b for a, b in itertools.pairwise(sigmas)]


def test_the_way_is_as_long_as_before_and_every_step_goes_down():
    rng = random.Random(0)
    for _ in range(200):
        steps = rng.randrange(2, 30)
        sigmas = grid(steps, rng)
        factors = [rng.choice([1.0, rng.uniform(0.1, 1.0)]) for _ in range(steps)]
        found = adjusted(sigmas, factors)
        assert len(found) == steps + 1
        assert sum(map(abs, lengths(found))) == pytest.approx(1.0, abs=1e-12)
        assert (found[0], found[-1]) == (1.0, 0.0)
        assert min(lengths(found)) > 0


def test_without_a_factor_the_levels_are_the_same_numbers():
    rng = random.Random(1)
    sigmas = grid(9, rng)
    assert adjusted(sigmas, [1.0] * 9) == tuple(sigmas)
    # The last step takes what is left, whatever its factor.
    assert adjusted(sigmas, [1.0] * 8 + [0.3]) == pytest.approx(sigmas, abs=1e-12)


def test_a_shorter_step_leaves_its_rest_to_those_behind_it_in_proportion():
    # From 1: half of 0.25 is 0.125, so 0.875 are left for three steps of 0.25 out of 0.75.
    found = adjusted(grid(4), [0.5, 1, 1, 1])
    assert found == pytest.approx([1, 0.875, 0.875 * 2 / 3, 0.875 / 3, 0], abs=1e-12)
    # Steps before a shorter one stay as they are: 0.25, 0.25 x 0.2, and the rest in two.
    assert adjusted(grid(4), [1, 0.2, 1, 1]) == pytest.approx([1, 0.75, 0.7, 0.35, 0], abs=1e-12)


@pytest.mark.parametrize("factors", [[1] * 3, [1] * 5, [1, 0, 1, 1], [1, -1, 1, 1], [float("nan")] * 4])
def test_factors_that_make_no_sense_are_refused(factors):
    with pytest.raises(DcacheError, match="expected 4 factors above 0"):
        adjusted(grid(4), factors)


@pytest.mark.parametrize("sigmas", [[1, 1, 0], [0, 1], [1.5, 0], [1, float("nan"), 0], [1, -0.1]])
def test_levels_that_do_not_fall_are_refused(sigmas):
    with pytest.raises(DcacheError, match="must fall from 1 towards 0"):
        adjusted(sigmas, [1.0] * (len(sigmas) - 1))


# Samplers -----------------------------------------------------------------------------------------

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
