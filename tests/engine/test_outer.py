"""Caching that is enabled on a policy lies on its denoiser; every chunk of actions is a run of its own."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from dcache.policy import Loop
from tests.policies import ACTIONS, HORIZON, Decoder, made, noise, observation

EVERY_3 = {"interval": 3, "sites": "model"}


class StoppedError(Exception):
    """The robot stops."""


class Inner(nn.Module):
    """lerobot's `DiffusionModel`: no forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.unet, self.scheduler = Decoder(), DDIMScheduler(100, clip_sample=False)

    def conditional_sample(self, cond: torch.Tensor, stop: int, warm: int) -> torch.Tensor:
        x = noise(0)
        if not warm:
            self.scheduler.set_timesteps(10)
        for i, t in enumerate(self.scheduler.timesteps[warm:]):
            if i == stop:
                raise StoppedError
            x = self.scheduler.step(self.unet(x, t, cond), t, x).prev_sample
        return x


class Policy(nn.Module):
    """lerobot's `DiffusionPolicy`: its call is a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.diffusion = Inner()
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    @torch.no_grad()
    def predict_action_chunk(self, cond: torch.Tensor, stop: int = -1, warm: int = 0) -> torch.Tensor:
        return self.diffusion.conditional_sample(cond, stop, warm)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.diffusion.unet(noise(0), torch.zeros(1), batch).square().mean()


class Flow(nn.Module):
    """pi0 and SmolVLA: a method is called in every step, and the towers' parts by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.tower, self.leave = nn.Linear(ACTIONS, 8), nn.Linear(8, 8), nn.Linear(8, ACTIONS)

    @torch.no_grad()
    def sample_actions(self, state: torch.Tensor) -> torch.Tensor:
        x = noise(0)
        for t in (1.0, 0.8, 0.6, 0.4, 0.2):
            x = x - 0.2 * self.denoise_step(state, x, torch.tensor([t]))
        return x

    def denoise_step(self, state: torch.Tensor, x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        y = self.enter(x_t) + state.mean() + timestep
        return self.leave(torch.tanh(self.tower.forward(y)))

    def forward(self, batch: Any) -> Any:
        raise NotImplementedError


class Vla(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Flow()

    def select_action(self, state: torch.Tensor) -> torch.Tensor:
        return self.model.sample_actions(state)[:, 0]


def leftovers(root: nn.Module) -> list[str]:
    names = {
        "_compiled_call_impl",
        "compile",
        "reset",
        "select_action",
        "denoise_step",
        "predict_action_chunk",
    }
    return [name for module in root.modules() for name in vars(module) if name in names]


def test_a_policy_whose_call_never_runs_is_cached_at_its_denoiser() -> None:
    policy = made(Policy)
    plain = policy.predict_action_chunk(observation(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dcache.enable(policy, methods.interval(interval=1, sites="sublayers"))
        assert torch.equal(policy.predict_action_chunk(observation(1)), plain)
        dcache.enable(policy, "interval", **EVERY_3)
        cached = policy.predict_action_chunk(observation(1))
    assert (dcache.stats(policy).computed, dcache.stats(policy).predicted) == (4, 6)
    assert dcache.stats(policy).bytes_now == 0
    by_hand = made(Policy)
    dcache.enable(by_hand.diffusion.unet, "interval", **EVERY_3)
    assert torch.equal(by_hand.predict_action_chunk(observation(1)), cached)
    assert dcache.trace(policy).components == dcache.trace(by_hand.diffusion.unet).components
    dcache.disable(policy)
    assert torch.equal(policy.predict_action_chunk(observation(1)), plain)
    assert leftovers(policy) == []
    assert dcache.stats(policy).predicted == 6


@pytest.mark.parametrize(
    ("make", "method", "length", "site"),
    [(Policy, "predict_action_chunk", 10, "trunk"), (Flow, "sample_actions", 5, "model")],
)
@pytest.mark.filterwarnings("ignore:.*evaluations:dcache.DcacheWarning")
@pytest.mark.filterwarnings("ignore:Flow_denoise_step has no block list:dcache.DcacheWarning")
def test_without_a_method_a_policy_computes_every_fourth_evaluation_and_the_last(
    make: Any, method: str, length: int, site: str
) -> None:
    policy = made(make)
    dcache.enable(policy, call="denoise_step" if make is Flow else None)
    # A loop by hand does not say how long it is: the first chunk is computed in full.
    for full in (make is Flow, False):
        getattr(policy, method)(observation(1))
        (plan,) = dcache.trace(policy).components.values()
        assert plan.rows["*"][site] == tuple(full or i % 4 == 0 or i == length - 1 for i in range(length))


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_an_aborted_chunk_and_a_warm_start_under_the_same_observation_are_a_fresh_policys(stop: int) -> None:
    policy, fresh = made(Policy), made(Policy)
    for each in (policy, fresh):
        each.diffusion.scheduler.set_timesteps(10)
        dcache.enable(each, "interval", **EVERY_3)
    with pytest.raises(StoppedError):
        policy.predict_action_chunk(observation(1), stop=stop)
    assert dcache.stats(policy).bytes_now == 0
    warm = policy.predict_action_chunk(observation(1), warm=stop)
    assert torch.equal(warm, fresh.predict_action_chunk(observation(1), warm=stop))


class ByHand(nn.Module):
    """Its loop has no sampler, so nothing says how long it is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Decoder()

    @torch.no_grad()
    def predict_action_chunk(self, cond: torch.Tensor, stop: int = 99) -> torch.Tensor:
        x = noise(0)
        for i, t in enumerate(range(10, 0, -1)):
            if i == stop:
                raise StoppedError
            x = x - 0.1 * self.net(x, torch.tensor([float(t)]), cond)
        return x


def stopped_by_hand(policy: ByHand) -> None:
    policy.predict_action_chunk(observation(1), stop=2)


def stopped_in_its_denoiser(policy: ByHand) -> None:
    calls: list[object] = []

    def fail(_module: nn.Module, _args: object) -> None:
        calls.append(None)
        if len(calls) == 3:
            raise StoppedError

    with next(policy.net.children()).register_forward_pre_hook(fail), torch.no_grad():
        # Past the policy's method: the next run alone shows that this one is over.
        for t in (10.0, 9.0, 8.0):
            policy.net(noise(0), torch.tensor([t]), observation(1))


def stopped_in_a_loop(policy: ByHand) -> None:
    Loop(lambda cond: policy.predict_action_chunk(cond, stop=2), denoiser=policy.net).act(observation(1))


@pytest.mark.parametrize(
    ("part", "stopped"),
    [("", stopped_by_hand), ("net", stopped_in_its_denoiser), ("net", stopped_in_a_loop)],
    ids=["chunk", "call", "loop"],
)
def test_an_aborted_run_teaches_no_length(part: str, stopped: Any) -> None:
    after: list[Any] = []
    for aborts in (False, True):
        policy = made(ByHand)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            target = dcache.enable(policy.get_submodule(part))
            if aborts:
                with pytest.raises(StoppedError):
                    stopped(policy)
            plans = []
            for _ in range(2):
                policy.predict_action_chunk(observation(1))
                plans.append(dcache.trace(target).components)
        after.append((sorted(str(warning.message) for warning in caught), plans))
    assert after[1] == after[0]


def test_a_block_that_an_exception_leaves_says_nothing_of_the_length() -> None:
    policy = made(ByHand)
    method = methods.interval(interval=2, warmup=99)
    # Warnings are errors here.
    with pytest.raises(StoppedError), dcache.enabled(policy.net, method):
        stopped_by_hand(policy)


def test_reset_is_the_policys_own_and_ends_the_run() -> None:
    policy = dcache.enable(made(Policy), "interval", **EVERY_3)
    with torch.no_grad():
        for t in (50.0, 40.0):
            policy.diffusion.unet(noise(0), torch.tensor([t]), observation(1))
    assert dcache.stats(policy).bytes_now > 0
    policy.reset()
    assert policy.resets == 1
    assert dcache.stats(policy).bytes_now == 0


def test_what_was_enabled_before_is_restored_and_a_denoiser_may_be_taken_over() -> None:
    policy = dcache.enable(made(Policy), "interval", **EVERY_3)
    with dcache.enabled(policy, "interval", interval=5, sites="model"):
        policy.predict_action_chunk(observation(1))
        assert dcache.stats(policy).predicted == 8
    policy.predict_action_chunk(observation(1))
    assert dcache.stats(policy).predicted == 6
    dcache.enable(policy.diffusion.unet, "interval", interval=2, sites="model")
    policy.predict_action_chunk(observation(1))
    assert dcache.stats(policy).predicted == 5
    dcache.disable(policy)
    assert leftovers(policy) == []


def test_a_copy_of_a_policy_is_plain_and_a_policy_is_freed() -> None:
    policy = made(Policy)
    plain = policy.predict_action_chunk(observation(1))
    dcache.enable(policy, "interval", **EVERY_3)
    copied = copy.deepcopy(policy)
    assert torch.equal(copied.predict_action_chunk(observation(1)), plain)
    died = weakref.ref(policy)
    del policy
    gc.collect()
    assert died() is None


def test_two_policies_in_two_threads_are_as_each_alone() -> None:
    conds = [[observation(10 * k + i) for i in range(4)] for k in range(2)]
    alone, results = [], [[], []]
    for k in range(2):
        policy = dcache.enable(made(Policy), "interval", **EVERY_3)
        alone.append([policy.predict_action_chunk(cond) for cond in conds[k]])
    policies = [dcache.enable(made(Policy), "interval", **EVERY_3) for _ in range(2)]

    def work(k: int) -> None:
        results[k].extend(policies[k].predict_action_chunk(cond) for cond in conds[k])

    threads = [Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for k in range(2) for a, b in zip(alone[k], results[k], strict=True))


def test_one_policy_in_two_threads_keeps_their_chunks_apart() -> None:
    def chunks(net: nn.Module, k: int) -> Iterator[torch.Tensor]:
        for i in range(4):
            cond, x = observation(10 * k + i), noise(k)
            with torch.no_grad():
                for t in range(10, 0, -1):
                    x = x - 0.1 * net(x, torch.tensor([float(t)]), cond)
            yield x

    alone = [list(chunks(dcache.enable(made(Decoder), "interval", **EVERY_3), k)) for k in range(2)]
    net, results = dcache.enable(made(Decoder), "interval", **EVERY_3), [[], []]
    threads = [Thread(target=lambda k=k: results[k].extend(chunks(net, k))) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for k in range(2) for a, b in zip(alone[k], results[k], strict=True))


def test_a_method_is_cached_where_it_is_named() -> None:
    policy = made(Vla)
    state = observation(1)
    plain = policy.select_action(state)
    with pytest.raises(DcacheError, match=r"call='model\.denoise_step'"):
        dcache.enable(policy, "interval", **EVERY_3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dcache.enable(policy, methods.interval(interval=1, sites="model"), call="model.denoise_step")
        assert torch.equal(policy.select_action(state), plain)
        dcache.enable(policy, "interval", call="model.denoise_step", **EVERY_3)
        cached = policy.select_action(state)
    assert (dcache.stats(policy).computed, dcache.stats(policy).predicted) == (2, 3)
    assert torch.equal(policy.select_action(state), cached)
    with dcache.enabled(policy, "interval", interval=5, sites="model", call="model.denoise_step"):
        policy.select_action(state)
        assert dcache.stats(policy).predicted == 4
    assert torch.equal(policy.select_action(state), cached)
    dcache.disable(policy)
    assert torch.equal(policy.select_action(state), plain)
    assert leftovers(policy) == []


def test_a_part_that_is_called_by_forward_is_cached_where_that_is_named() -> None:
    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Decoder()

        @torch.no_grad()
        def select_action(self, cond: torch.Tensor) -> torch.Tensor:
            x = noise(0)
            for t in range(10, 0, -1):
                x = x - 0.1 * self.net.forward(x, torch.tensor([float(t)]), cond)
            return x

    policy = dcache.enable(made(Caller), "interval", call="net.forward", **EVERY_3)
    policy.select_action(observation(1))
    assert dcache.stats(policy).predicted == 6
    dcache.enable(policy, "interval", **EVERY_3)
    with pytest.warns(DcacheWarning, match=r"calls Decoder\.forward past.*call='forward'"):
        policy.select_action(observation(1))
    dcache.enable(policy.net, "interval", call="forward", **EVERY_3)
    policy.select_action(observation(1))
    assert dcache.stats(policy.net).predicted == 6


def test_a_chunk_that_is_made_without_the_denoiser_is_said() -> None:
    class Blind(nn.Module):
        """Its denoiser is for training."""

        def __init__(self) -> None:
            super().__init__()
            self.net = Decoder()

        def predict_action(self, cond: torch.Tensor) -> torch.Tensor:
            return noise(0)

    policy = dcache.enable(made(Blind), "interval", **EVERY_3)
    with pytest.warns(DcacheWarning, match="made without a call of Decoder"):
        policy.predict_action(observation(1))


def test_a_module_that_looks_like_no_denoiser_and_is_never_called_is_said() -> None:
    class Odd(nn.Module):
        """Takes its timestep under a name of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.core = nn.Linear(ACTIONS, ACTIONS)

        def forward(self, x: torch.Tensor, tau: float) -> torch.Tensor:
            return self.core(x) * tau

    outer = dcache.enable(made(Odd), "interval", **EVERY_3)
    x = torch.zeros(1, HORIZON, ACTIONS)

    def around() -> None:
        with torch.no_grad():
            for _ in range(16):
                outer.core(x)

    with pytest.warns(DcacheWarning, match=r"its part core \(Linear\) was called where Odd itself was not"):
        around()
    called = dcache.enable(made(Odd), "interval", **EVERY_3)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        for i in range(20):
            dcache.step(called, i)
            called(x, float(i))
