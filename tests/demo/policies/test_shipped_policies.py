"""The shipped policies in open loop, without a simulator."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import dcache
from dcache.demo.policies import open_loop
from dcache.demo.policies.observed import load_profile
from dcache.demo.policies.open_loop import load_observations, measure, rms
from dcache.demo.policies.policy import TASKS, load_policy, save_policy, shipped_folder
from dcache.demo.policies.sampling import Sampler
from dcache.demo.policies.settings import parse

SHIPPED = [name for name in TASKS if shipped_folder(name).exists()]
# Bytes of a shipped policy at most.
LARGEST = {"drawer-open": 1e6, "pusht": 10e6}


def no_profile(steps: int):
    raise dcache.DcacheError(f"no profile of {steps}")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_policy_follows_its_expert(name: str) -> None:
    policy, observations = load_policy(name), load_observations(name)
    chunks = policy.chunks(observations.states, range(len(observations)), Sampler("ddim", 10))
    actions = policy.task.actions(chunks, observations.states[:, -1])[:, : policy.task.executed]
    # What the expert did at other moments is how far off a policy would be that ignores the observation.
    executed = observations.actions[:, : policy.task.executed]
    assert rms(actions, executed) < 0.5 * rms(executed.roll(1, 0), executed)


@pytest.mark.parametrize("name", ["drawer-open", pytest.param("pusht", marks=pytest.mark.slow)])
def test_errors_are_those_of_an_uncached_run_from_the_same_noise(name: str) -> None:
    policy, observations = load_policy(name), load_observations(name).first(2)
    exact, half = measure(
        policy,
        parse("ddim:100 interval:interval=1; ddim:50 interval:interval=2"),
        observations,
        0,
        no_profile,
    )
    assert (exact.error, exact.computed, exact.evaluations) == (0.0, 1.0, 100)
    with dcache.enabled(policy, "interval", interval=2):
        cached = policy.chunks(observations.states, [0, 1], Sampler("ddim", 50))
    plain = policy.chunks(observations.states, [0, 1], Sampler("ddim", 100))
    a, b = (policy.task.actions(x, observations.states[:, -1])[:, :8] for x in (cached, plain))
    distances = [float((x - y).square().sum()) for x, y in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)]
    assert half.error == pytest.approx((sum(distances) / len(distances)) ** 0.5)
    assert half.computed == 0.5


@pytest.mark.parametrize("name", SHIPPED)
def test_a_policy_is_small_and_finite(name: str) -> None:
    assert (shipped_folder(name) / "model.safetensors").stat().st_size <= LARGEST[name]
    policy = load_policy(name)
    assert all(bool(weight.isfinite().all()) for weight in policy.network.parameters())


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_profile_plans_the_sublayers(name: str) -> None:
    profile = load_profile(name, 100)
    layers = load_policy(name).network.config.layers
    method = dcache.methods.bac(profile=profile, computes=25)
    assert len(method.sites) == 3 * layers
    assert profile.steps == 100


def test_a_policy_is_written_and_read(tmp_path: Path) -> None:
    policy = load_policy("drawer-open")
    save_policy(policy, tmp_path)
    assert load_policy("drawer-open", tmp_path).digest == policy.digest
    with torch.no_grad():
        policy.network.norm.bias += 1
    assert load_policy("drawer-open", tmp_path).digest != policy.digest


def test_names_and_profiles_that_do_not_exist() -> None:
    with pytest.raises(dcache.DcacheError, match="drawer-open, pusht"):
        load_policy("door")
    with pytest.raises(dcache.DcacheError, match=r"observe.py drawer-open --steps 33"):
        load_profile("drawer-open", 33)


def test_settings_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    # By this clock the first setting's chunks take 1 and 3 seconds, the second one's 2 and 4.
    ticks = iter([0.0, 1.0, 1.0, 3.0, 3.0, 6.0, 6.0, 10.0])
    monkeypatch.setattr(open_loop, "time", SimpleNamespace(process_time=lambda: next(ticks)))
    policy, observations = load_policy("drawer-open"), load_observations("drawer-open").first(2)
    rows = measure(policy, parse("ddim:1; ddim:2"), observations, 2, no_profile)
    assert [row.setting for row in rows] == ["ddim:1", "ddim:2"]
    assert [(row.milliseconds[0], row.milliseconds[3]) for row in rows] == [(2000, 3000), (3000, 4000)]
    # The median of 1 / 2 and 3 / 4.
    assert [row.speedup for row in rows] == [1.0, 0.625]


@pytest.mark.parametrize("name", SHIPPED)
def test_without_a_method_a_shipped_policy_gets_that_of_policies(name: str) -> None:
    policy, observations = load_policy(name), load_observations(name)
    dcache.enable(policy, interval=6)
    policy.chunks(observations.states[:1], [0], Sampler("ddim", 13))
    stats = dcache.stats(policy)
    assert stats.method == "policy_default(interval=6)"
    # Every sixth of thirteen, of which the last is one.
    assert (stats.computed, stats.predicted) == (3, 10)
    estimate = dcache.memory_estimate(
        policy, states=observations.states[:1], seeds=[0], sampler=Sampler("ddim", 13)
    )
    assert estimate == stats.bytes_held
