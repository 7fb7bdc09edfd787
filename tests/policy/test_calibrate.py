"""A schedule that is planned from a policy's own chunks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import dcache
from dcache import DcacheError
from dcache.policy import Sampled
from dcache.policy.calibrate import calibrate, observe_policy, planner_for
from dcache.schedulers.planners.registry import make
from tests.policies import ACTIONS, HORIZON, OBSERVED, Decoder, UNet1d, made


def policy(layers: int = 3) -> Sampled:
    return Sampled(
        made(lambda: Decoder(layers=layers)),
        DDIMScheduler(100, clip_sample=False),
        (HORIZON, ACTIONS),
        10,
        lambda seen: seen["state"],
    )


def test_a_file_of_observations_is_walked_once_for_each_chunk(tmp_path: Path) -> None:
    path, walked = tmp_path / "seen.npz", []
    np.savez(path, state=np.arange(3 * OBSERVED, dtype=np.float32).reshape(3, OBSERVED))
    robot = policy()
    robot.condition = lambda seen: (walked.append(float(seen["state"][0, 0])), seen["state"])[1]
    profile = observe_policy(robot, path, sites=["model"], timing=False)
    assert set(profile.sites) == {"model"}
    # The first one also measures sizes.
    assert walked == [0, 0, OBSERVED, 2 * OBSERVED]


def test_the_planner_fits_what_is_found_in_the_denoiser() -> None:
    observations = [{"state": torch.randn(1, OBSERVED)} for _ in range(2)]
    decoder = observe_policy(policy(), observations, sites=["attn"], timing=False)
    assert planner_for(decoder) == "knapsack"
    robot = policy()
    robot.denoiser = made(UNet1d)
    unet = observe_policy(robot, observations, timing=False)
    assert not unet.of_kind("attn", "mlp", "block")
    assert planner_for(unet) == "pairs"
    dcache.enable(robot.denoiser, make("pairs", unet, computes=4))
    robot(observations[0])
    assert dcache.stats(robot.denoiser).predicted > 0


@pytest.mark.slow
def test_the_schedule_is_as_fast_as_was_asked_for_and_runs() -> None:
    robot = policy(layers=24)
    observations = [{"state": torch.randn(1, OBSERVED)} for _ in range(2)]
    schedule = calibrate(robot, observations, 1.3, planner="pairs", sites=["trunk"])
    dcache.enable(robot.denoiser, schedule)
    robot(observations[0])
    assert dcache.stats(robot.denoiser).predicted > 0


def test_more_runs_than_observations_are_an_error() -> None:
    with pytest.raises(DcacheError, match="expected 1 to 1 runs"):
        observe_policy(policy(), [{"state": torch.zeros(1, OBSERVED)}], runs=2)
