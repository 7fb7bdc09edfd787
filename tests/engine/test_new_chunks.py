"""Chunks of actions that break off: features of one observation are never used for the next one.

The oracle is a fresh policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods

FULL = (90, 80, 70, 60, 50, 40, 30, 20, 10, 0)
PRESETS = {
    "interval at the model": lambda: methods.interval(interval=3, sites="model"),
    "interval at the trunk": lambda: methods.interval(interval=3),
    "newton": lambda: methods.newton(interval=3),
    "easycache": lambda: methods.easycache(threshold=0.5, warmup=1),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:nothing was predicted:dcache.DcacheWarning"),
    pytest.mark.filterwarnings("ignore:this run of Denoiser had:dcache.DcacheWarning"),
    pytest.mark.filterwarnings("ignore:3 runs of Denoiser in a row:dcache.DcacheWarning"),
]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + torch.tanh(self.linear(hidden_states))


class Denoiser(nn.Module):
    """Of a policy: it takes the observation as it is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.see, self.leave = nn.Linear(2, 8), nn.Linear(3, 8), nn.Linear(8, 2)
        self.blocks = nn.ModuleList([Block() for _ in range(3)])
        self.eval()

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        x = self.enter(sample) + self.see(cond)[:, None] + timestep / 100
        for block in self.blocks:
            x = block(x)
        return self.leave(x)


def observation(seed: int) -> torch.Tensor:
    return torch.randn(1, 3, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def chunk(
    net: nn.Module, timesteps: Sequence[float], cond: torch.Tensor, seed: int = 0, horizon: int = 16
) -> torch.Tensor:
    """A hand-written loop over these noise levels, which may be few; the noise is the seed's."""
    x = torch.randn(1, horizon, 2, generator=torch.Generator().manual_seed(seed))
    for t in timesteps:
        x = x - 0.1 * net(x, torch.tensor([float(t)]), cond.expand(1, -1))
    return x


def enabled(preset: str) -> Denoiser:
    return dcache.enable(Denoiser(), PRESETS[preset]())


@pytest.mark.parametrize("horizon", [16, 3])
@pytest.mark.parametrize("at", [1, 3, 5])
@pytest.mark.parametrize("preset", PRESETS)
def test_an_aborted_chunk_and_a_warm_start_are_a_fresh_policys(preset: str, at: int, horizon: int) -> None:
    old, new = observation(1), observation(2)
    for known in ([], FULL):
        net = enabled(preset)
        chunk(net, known, old, horizon=horizon)
        chunk(net, FULL[:at], old, horizon=horizon)
        warm = chunk(net, FULL[at:], new, horizon=horizon)
        assert torch.equal(warm, chunk(enabled(preset), FULL[at:], new, horizon=horizon))


def test_an_observation_that_is_written_into_the_same_memory_is_another() -> None:
    net, buffer = enabled("interval at the model"), observation(1)
    chunk(net, FULL[:5], buffer)
    buffer.copy_(observation(2))
    assert torch.equal(
        chunk(net, FULL[5:], buffer), chunk(enabled("interval at the model"), FULL[5:], observation(2))
    )


def test_chunks_that_begin_again_at_the_timestep_where_the_last_one_was_left() -> None:
    net, at = enabled("interval at the model"), FULL[4:]
    chunk(net, FULL[:5], observation(1))
    warm = chunk(net, at, observation(2), seed=1)
    assert torch.equal(warm, chunk(enabled("interval at the model"), at, observation(2), seed=1))


def test_chunks_of_one_step_are_uncached_ones() -> None:
    net, plain = enabled("interval at the model"), Denoiser()
    for seed in range(12):
        cond = observation(seed)
        assert torch.equal(chunk(net, [0], cond, seed), chunk(plain, [0], cond, seed))


@torch.no_grad()
def sampled(net: nn.Module, scheduler: Any, timesteps: Any, cond: torch.Tensor) -> torch.Tensor:
    x = torch.randn(1, 16, 2, generator=torch.Generator().manual_seed(0))
    for t in timesteps:
        x = scheduler.step(net(x, t, cond), t, x).prev_sample
    return x


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_warm_start_on_a_sampler_that_was_left_is_a_fresh_policys(at: int) -> None:
    scheduler, again = (DDIMScheduler(100, clip_sample=False) for _ in range(2))
    for each in (scheduler, again):
        each.set_timesteps(10)
    net, fresh = enabled("interval at the model"), enabled("interval at the model")
    sampled(net, scheduler, scheduler.timesteps[:at], observation(1))
    warm = sampled(net, scheduler, scheduler.timesteps[at:], observation(2))
    assert torch.equal(warm, sampled(fresh, again, again.timesteps[at:], observation(2)))


def test_after_a_reset_the_next_call_opens_a_run_of_the_same_observation() -> None:
    net, cond = enabled("interval at the model"), observation(1)
    chunk(net, FULL[:5], cond)
    assert dcache.stats(net).bytes_now > 0
    dcache.reset(net)
    assert dcache.stats(net).bytes_now == 0
    assert dcache.stats(net).steps == 5
    warm = chunk(net, FULL[5:], cond)
    assert torch.equal(warm, chunk(enabled("interval at the model"), FULL[5:], cond))
    assert dcache.stats(net).steps == 5


def test_a_reset_in_one_thread_leaves_the_others_run_alone() -> None:
    net, cond = enabled("interval at the model"), observation(1)
    chunk(net, FULL[:5], cond)

    def other() -> None:
        chunk(net, FULL[:2], observation(2))
        dcache.reset(net)

    thread = Thread(target=other)
    thread.start()
    thread.join()
    # This thread's run goes on to its tenth evaluation.
    chunk(net, FULL[5:], cond)
    assert dcache.stats(net).steps == 10


def test_a_reset_without_anything_enabled_is_an_error() -> None:
    with pytest.raises(DcacheError, match=r"enabled on it, got Denoiser: call dcache\.enable first"):
        dcache.reset(Denoiser())


def test_features_that_change_in_every_evaluation_are_said_once_and_cached() -> None:
    net = enabled("interval at the model")

    @torch.no_grad()
    def loop() -> None:
        for t in FULL:
            net(torch.zeros(1, 16, 2), torch.tensor([float(t)]), observation(t))

    with pytest.warns(DcacheWarning, match=r"'2' of Denoiser changes in every evaluation"):
        loop()
    # Each of 90, 80 and 70 is a run of its own; that of 60 goes on to the end.
    assert dcache.stats(net).steps == 7


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_that_is_asked_for_in_full_is_the_uncached_one(
    preset: str,
) -> None:
    net, cond = enabled(preset), observation(1)
    chunk(net, FULL, cond)
    dcache.reset(net, full=True)
    # What ends the run once more, as a policy's own reset does, takes nothing back.
    dcache.reset(net)
    assert torch.equal(chunk(net, FULL, cond), chunk(Denoiser(), FULL, cond))
    stats = dcache.stats(net)
    assert (stats.predicted, stats.reasons) == (0, {"asked": 10})
    assert torch.equal(chunk(net, FULL, cond), chunk(enabled(preset), FULL, cond))
    assert dcache.stats(net).predicted > 0
