"""Episodes in a simulator, many side by side: one batch of chunks for all that still run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dcache.demo.policies.policy import ChunkPolicy
from dcache.demo.policies.sampling import Sampler
from dcache.demo.policies.tasks import Simulator, State

# A chunk's noise has the seed SEEDS * episode + number of the chunk.
SEEDS = 1000


@dataclass(frozen=True)
class Result:
    """One episode.

    Attributes:
        episode: its seed.
        success: the task was solved within the limit.
        progress: the best progress of the episode (PushT: coverage).
        steps: executed actions.
        chunks: planned chunks.
        seconds: CPU seconds of its chunks: a batch's, divided by its rows.
    """

    episode: int
    success: bool
    progress: float
    steps: int
    chunks: int
    seconds: float


@dataclass
class Episode:
    """An episode under way.

    Attributes:
        seed: decides how it begins, and its chunks' noise.
        simulator: the simulator.
        states: the last two states.
        plan: what the last chunk has left, actions; None before the first.
        frames: pictures, if wanted.
    """

    seed: int
    simulator: Simulator
    states: list[State]
    plan: NDArray[np.float32] | None = None
    success: bool = False
    progress: float = 0.0
    steps: int = 0
    chunks: int = 0
    seconds: float = 0.0
    frames: list[NDArray[np.uint8]] = field(default_factory=list)

    @property
    def result(self) -> Result:
        """Success, progress and costs of the episode so far."""
        return Result(self.seed, self.success, self.progress, self.steps, self.chunks, self.seconds)

    def execute(self, actions: NDArray[np.float32], count: int, limit: int, filmed: bool) -> None:
        """Execute the first `count` actions of a chunk, until success or the limit; keep the rest."""
        self.chunks += 1
        for action in actions[:count]:
            outcome = self.simulator.step(action)
            self.states = [self.states[-1], outcome.state]
            self.progress = max(self.progress, outcome.progress)
            self.steps += 1
            if filmed:
                self.frames.append(self.simulator.frame())
            self.success = outcome.success
            if self.success or self.steps >= limit:
                break
        self.plan = np.concatenate([actions[count:], np.repeat(actions[-1:], count, 0)])


def run(
    policy: ChunkPolicy,
    simulators: Sequence[Simulator],
    seeds: Sequence[int],
    sampler: Sampler,
    warm: int | None = None,
    filmed: bool = False,
) -> Iterator[Episode]:
    """Run episodes with what is enabled on the policy; yields each when it ends.

    Args:
        policy: the policy.
        simulators: one for each episode that runs at a time.
        seeds: the episodes, no more than there are simulators.
        sampler: kind and number of steps.
        warm: evaluations of a chunk that begins with what the previous one left; None for noise.
        filmed: keep a picture after each action.
    """
    task = policy.task
    # Diffusers is imported outside the clocks.
    sampler.scheduler()
    running = [_begin(seed, simulator) for seed, simulator in zip(seeds, simulators, strict=False)]
    while running:
        actions = plan(policy, running, sampler, warm)
        for episode, chunk in zip(running, actions, strict=True):
            episode.execute(chunk, task.executed, task.limit, filmed)
        ended = [episode for episode in running if episode.success or episode.steps >= task.limit]
        running = [episode for episode in running if not (episode.success or episode.steps >= task.limit)]
        yield from ended


def plan(
    policy: ChunkPolicy, episodes: Sequence[Episode], sampler: Sampler, warm: int | None = None
) -> NDArray[np.float32]:
    """The next chunk of each episode, actions `[episodes, horizon, action]`."""
    began = time.process_time()
    states = torch.tensor(np.stack([np.stack(episode.states) for episode in episodes]))
    seeds = [SEEDS * episode.seed + episode.chunks for episode in episodes]
    start = None
    if warm is not None and all(episode.plan is not None for episode in episodes):
        left = torch.tensor(np.stack([episode.plan for episode in episodes if episode.plan is not None]))
        start = policy.task.chunk(left, states[:, -1])
    level = None if start is None else warm
    chunks = policy.chunks(states, seeds, sampler, start, level)
    actions: Any = policy.task.actions(chunks, states[:, -1]).numpy()
    for episode in episodes:
        episode.seconds += (time.process_time() - began) / len(episodes)
    return actions


def _begin(seed: int, simulator: Simulator) -> Episode:
    state = simulator.reset(seed)
    return Episode(seed, simulator, [state, state])
