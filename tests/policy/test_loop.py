"""The control loop: which action comes next, what a chunk is made from, and that nothing is carried over."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from dcache.policy import Loop, Sampled, Start
from tests.policies import ACTIONS, HORIZON, OBSERVED, WIDTH, CrossDiT, Decoder, made, observation

EVERY_3 = {"interval": 3, "sites": "model"}


def counting(observation: torch.Tensor) -> torch.Tensor:
    """The chunk of observation o: 100 o, 100 o + 1, 100 o + 2, 100 o + 3."""
    return 100 * observation + torch.arange(4.0)[:, None]


def acted(loop: Loop, steps: int) -> list[float]:
    """The actions of the observations 0, 1, 2, ..."""
    return [float(loop.act(torch.tensor([float(i)]))) for i in range(steps)]


def sampled(steps: int = 10) -> Sampled:
    return Sampled(
        made(Decoder),
        DDIMScheduler(100, clip_sample=False),
        (HORIZON, ACTIONS),
        steps,
        generator=torch.Generator().manual_seed(0),
    )


@pytest.mark.parametrize(
    ("execute", "actions"),
    [(None, [0, 1, 2, 3, 400, 401, 402, 403]), (2, [0, 1, 200, 201, 400, 401]), (9, [0, 1, 2, 3, 400])],
)
def test_a_chunk_is_made_where_the_last_one_is_executed(execute: int | None, actions: list[float]) -> None:
    loop = Loop(counting, execute=execute)
    assert acted(loop, len(actions)) == actions


def test_a_loop_that_works_ahead_skips_what_passed_meanwhile() -> None:
    with Loop(counting, asynchronous=True, ahead=2) as loop:
        # The chunk of observation 2 is begun with two actions left, and its first two are then in the past.
        assert acted(loop, 8) == [0, 1, 2, 3, 202, 203, 402, 403]
        assert loop.stats().chunks in (3, 4)


def test_what_is_made_ahead_reads_the_observation_as_it_was() -> None:
    gate, buffer = threading.Event(), torch.zeros(1)

    def slow(observation: torch.Tensor) -> torch.Tensor:
        if threading.current_thread() is not threading.main_thread() and float(observation) > 0:
            gate.wait(5)
        return counting(observation)

    with Loop(slow, asynchronous=True, ahead=1) as loop:
        actions = []
        for i in range(5):
            buffer.fill_(i)
            actions.append(float(loop.act(buffer)))
            if i == 3:
                buffer.fill_(77)
                gate.set()
        assert actions == [0, 1, 2, 3, 301]


def test_what_goes_wrong_ahead_is_raised_where_the_action_is_due() -> None:
    def fails(observation: torch.Tensor) -> torch.Tensor:
        if float(observation) > 0:
            raise ValueError("camera")
        return counting(observation)

    with Loop(fails, asynchronous=True, ahead=1) as loop:
        assert acted(loop, 4) == [0, 1, 2, 3]
        with pytest.raises(ValueError, match="camera"):
            loop.act(torch.zeros(1))
        assert float(loop.act(torch.zeros(1))) == 0


def test_chunks_of_a_cached_policy_are_those_of_fresh_ones() -> None:
    policy = sampled()
    dcache.enable(policy.denoiser, "interval", **EVERY_3)
    loop = Loop(policy, jump=None)
    chunks = [loop.chunks.make(observation(i)) for i in range(3)]
    for i, chunk in enumerate(chunks):
        fresh = sampled()
        dcache.enable(fresh.denoiser, "interval", **EVERY_3)
        for _ in range(i):
            torch.randn((1, HORIZON, ACTIONS), generator=fresh.generator)
        assert torch.equal(chunk, fresh(observation(i)))
    stats = loop.stats()
    assert (stats.chunks, stats.denoiser.computed, stats.denoiser.predicted) == (3, 4, 6)
    assert 0 < stats.p50 <= stats.p95 <= stats.p99 == stats.longest


def test_a_jump_of_the_observation_is_computed_in_full_and_the_next_chunk_is_cached() -> None:
    policy, plain = sampled(), sampled()
    dcache.enable(policy.denoiser, "interval", **EVERY_3)
    loop, cond = Loop(policy), torch.ones(1, 5)
    predicted = []
    for each in (cond, cond * 1.1, -cond, -cond):
        chunk = loop.chunks.make(each, torch.zeros(1, HORIZON, ACTIONS))
        uncached = plain(each)
        predicted.append(dcache.stats(policy.denoiser).predicted)
        assert torch.equal(chunk, uncached) is (predicted[-1] == 0)
    # The first chunk has one before it here, and no observation to compare with: that is a jump too.
    assert predicted == [0, 6, 0, 6]
    assert (loop.stats().jumps, loop.stats().full) == (2, 2)
    assert Loop(policy, jump=None).chunks.jumps is None


def test_after_so_many_cached_chunks_one_is_computed_in_full() -> None:
    policy = sampled()
    dcache.enable(policy.denoiser, "interval", **EVERY_3)
    loop, predicted = Loop(policy, longest=2), []
    for _ in range(5):
        loop.chunks.make(torch.ones(1, 5))
        predicted.append(dcache.stats(policy.denoiser).predicted)
    assert predicted == [6, 6, 0, 6, 6]


def test_with_a_fixed_schedule_every_chunk_costs_the_same_and_another_cost_is_said() -> None:
    policy = sampled()
    dcache.enable(policy.denoiser, "interval", **EVERY_3)
    loop = Loop(policy, fixed=True, longest=1)
    previous = None
    for i in range(4):
        previous = loop.chunks.make(observation(i), previous)
        assert dcache.stats(policy.denoiser).computed == 4
    assert loop.stats().full == 0
    dcache.enable(policy.denoiser, methods.interval(interval=2, sites="model"))
    with pytest.warns(DcacheWarning, match="computed 5 site events where the first computed 4"):
        loop.chunks.make(observation(1))


def test_a_warm_chunk_begins_with_the_last_one_and_carries_no_features() -> None:
    policy, again = sampled(), sampled()
    for each in (policy, again):
        dcache.enable(each.denoiser, "interval", **EVERY_3)
    loop = Loop(policy, warm_start=0.5, execute=2, jump=None)
    obs = torch.ones(1, 5)
    for _ in range(2):
        loop.act(obs)
    before = loop._chunk.actions
    loop.act(obs)
    assert loop.stats().warm == 1
    assert dcache.stats(policy.denoiser).steps == 5
    # By hand: the same generator, the last chunk without its first two actions, a denoiser that saw nothing.
    torch.randn((1, HORIZON, ACTIONS), generator=again.generator)
    moved = torch.cat([before[:, 2:], before[:, -1:], before[:, -1:]], 1)
    assert torch.equal(loop._chunk.actions, again(obs, Start(moved, 0.5)))


def test_after_a_jump_and_after_a_reset_a_chunk_begins_with_noise() -> None:
    loop, obs = Loop(sampled(2), warm_start=0.5, execute=1), torch.ones(1, 5)
    for each in (obs, obs, -obs, -obs):
        loop.act(each)
    assert (loop.stats().warm, loop.stats().jumps) == (2, 1)
    loop.reset()
    loop.act(-obs)
    assert loop.stats().warm == 2


def test_late_chunks_are_counted_and_said_once() -> None:
    loop = Loop(counting, max_latency=0.0, execute=1)
    with pytest.warns(DcacheWarning, match="max_latency is 0 ms") as said:
        acted(loop, 3)
    assert len(said) == 1
    assert loop.stats().late == 3


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Loop(counting, warm_start=0.5), "takes start=.*counting takes none"),
        (lambda: Loop(counting, warm_start=1.5), "above 0 and at most 1"),
        (lambda: Loop(made(Decoder)), "Decoder has no method that makes a chunk"),
        (lambda: Loop(counting, execute=0), "execute"),
        (lambda: Loop(lambda _: torch.zeros(3)).act(0), r"got shape \(3,\)"),
        (lambda: Loop(lambda _: torch.full((3, 1), torch.nan)).act(0), "must not reach the robot"),
        (lambda: Loop(lambda _: {"action": torch.zeros(3, 1)}).act(0), "got dict with action from .*lambda"),
        (lambda: Loop(lambda _: (torch.zeros(3, 1), "info")).act(0), "got tuple from .*lambda"),
        (lambda: Loop(counting, warm_start=True), "level must be a number, got True"),
        (lambda: Loop(counting, warm_start="0.5"), "level must be a number, got '0.5'"),
        (lambda: Loop(counting, max_latency=-0.1), "max_latency must be a number of at least 0"),
        (lambda: Loop(counting, jump=-1), "jump must be a number of at least 0"),
        (lambda: Loop(counting).act(object()), "no numbers that could be compared"),
    ],
    ids=[
        "no start",
        "level",
        "no method",
        "execute",
        "shape",
        "nan",
        "dict",
        "tuple",
        "true",
        "text",
        "negative latency",
        "negative jump",
        "no numbers",
    ],
)
def test_what_cannot_be_is_an_error(make: Any, says: str) -> None:
    with pytest.raises(DcacheError, match=says):
        make()


class Counted(nn.Linear):
    """Counts its computed calls; a forward hook would have the memo leave it alone."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


class Seeing(CrossDiT):
    """Its memory is the observation's tokens alone, as in GR00T and RDT; the actions carry the timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.see = Counted(OBSERVED, WIDTH)
        for block in self.blocks:
            block.cross_attn.kv = Counted(WIDTH, 2 * WIDTH)

    def forward(self, x: torch.Tensor, t: torch.Tensor, lang_c: torch.Tensor) -> torch.Tensor:
        memory, x = self.see(lang_c)[:, None], self.enter(x) + self.time(t)
        for block in self.blocks:
            x = block(x, memory)
        return self.leave(x)


def test_keys_and_values_of_the_observation_are_computed_twice_a_chunk_and_no_bit_differs() -> None:
    def policy() -> Sampled:
        sampler = DDIMScheduler(100, clip_sample=False)
        noise = torch.Generator().manual_seed(0)
        return Sampled(made(Seeing), sampler, (HORIZON, ACTIONS), 10, generator=noise)

    robot, plain = policy(), policy()
    counted = [m for m in robot.denoiser.modules() if isinstance(m, Counted)]
    with Loop(robot, memo=True, execute=1) as loop:
        before = 0
        # The first call is observed; then an output is computed, and computed once more to be compared.
        for i, computed in enumerate((3, 2, 2)):
            wide = torch.randn(1, OBSERVED, generator=torch.Generator().manual_seed(i))
            assert torch.equal(loop.act(wide), plain(wide)[:, 0])
            assert {m.calls - before for m in counted} == {computed}
            before += computed
        memo = loop.stats().memo
        assert memo is not None
        assert {name: sources for name, sources in memo.modules.items() if name != "time"} == {
            "see": ("lang_c",),
            **{f"blocks.{i}.cross_attn.kv": ("lang_c",) for i in range(3)},
        }
        # 4 modules: 7, 8 and 8 of ten; the timestep's: from the third chunk on.
        assert memo.hits == 4 * 23 + 9
        assert f"memo           {memo.hits} answered" in str(loop.stats())
    assert loop.stats().memo is None
    before = {m.calls for m in counted}
    robot(torch.ones(1, OBSERVED))
    assert {m.calls for m in counted} == {calls + 10 for calls in before}


class FailingError(Exception):
    """The camera broke."""


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_chunk_that_fails_is_raised_and_the_next_one_is_computed_in_full(asynchronous: bool) -> None:
    robot, plain, fails = sampled(), sampled(), [False, True, False]

    def policy(cond: torch.Tensor) -> torch.Tensor:
        if fails.pop(0):
            robot.denoiser(torch.zeros(1, HORIZON, ACTIONS), torch.tensor([90.0]), cond)
            raise FailingError
        return robot(cond)

    dcache.enable(robot.denoiser, "interval", **EVERY_3)
    near, far = torch.ones(1, 5), -torch.ones(1, 5)
    with Loop(policy, denoiser=robot.denoiser, asynchronous=asynchronous, ahead=1) as loop:
        for _ in range(HORIZON - 1):
            loop.act(near)
        loop.act(far)
        with pytest.raises(FailingError):
            loop.act(far)
        action = loop.act(far)
    # The chunk that failed was the jump's: the one made in its place is the uncached one.
    plain(near)
    assert torch.equal(action, plain(far)[:, 0])
    assert loop.stats().jumps == 1


def test_a_policy_that_reads_what_only_select_action_stores_fails_with_a_way_out() -> None:
    class Queued:
        """As lerobot's `DiffusionPolicy`."""

        def select_action(self, cond: torch.Tensor) -> None:
            """Stores the observation."""

        def predict_action_chunk(self, cond: torch.Tensor) -> torch.Tensor:
            return torch.stack([])

    with pytest.raises(RuntimeError, match="non-empty") as failed:
        Loop(Queued()).act(torch.ones(1, 5))
    (note,) = failed.value.__notes__
    assert "observe=History(n)" in note


def test_a_closed_loop_forgets_the_chunk_that_was_under_way() -> None:
    loop = Loop(counting, asynchronous=True, ahead=2)
    acted(loop, 3)
    loop.close()
    # Not an action of the chunk for observation 2, nor one of the first chunk.
    assert float(loop.act(torch.tensor([7.0]))) == 700.0
    loop.close()


def test_observations_of_numpy_with_two_cameras_and_a_batch_drive_a_cached_policy() -> None:
    def condition(seen: Any) -> Any:
        cameras = [seen[name].reshape(2, -1)[:, :2] / 255 for name in ("front", "wrist")]
        return np.concatenate([*cameras, seen["state"]], 1)

    robot = sampled()
    robot.condition = condition
    dcache.enable(robot.denoiser, "interval", **EVERY_3)
    loop = Loop(robot, execute=2)
    seen = {
        "front": np.full((2, 4, 4, 3), 200, np.uint8),
        "wrist": np.full((2, 4, 4, 3), 90, np.uint8),
        "state": np.ones((2, 1)),
    }
    actions = [loop.act(seen) for _ in range(4)]
    assert {tuple(action.shape) for action in actions} == {(2, ACTIONS)}
    assert actions[0].dtype == torch.float32
    assert (loop.stats().chunks, loop.stats().jumps) == (2, 0)
    # One camera of one robot is covered.
    seen["wrist"][1] = 0
    seen["front"][1] = 0
    loop.act(seen)
    assert loop.stats().jumps == 1
