"""A task whose chunks and episodes can be computed by hand: a number that the actions are added to."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from dcache.demo.policies.network import NetworkConfig, PolicyNetwork
from dcache.demo.policies.policy import ChunkPolicy
from dcache.demo.policies.tasks import Outcome, Task

GOAL = 20.0


class Sum(Task):
    """The state is a sum; an episode is solved where it reaches 20 exactly."""

    name, title, unit = "sum", "Sum", "px"
    state, action, features = 1, 1, 1
    limit, executed = 30, 8

    def encode(self, states):
        return states.float()

    def actions(self, chunk, state):
        return chunk

    def chunk(self, actions, state):
        return actions

    def simulator(self):
        return Adder()


class Adder:
    """Begins at the seed."""

    def reset(self, seed):
        self.sum = float(seed)
        return np.array([self.sum], np.float32)

    def step(self, action):
        self.sum += float(action[0])
        progress = max(0.0, 1 - abs(GOAL - self.sum) / GOAL)
        return Outcome(np.array([self.sum], np.float32), self.sum == GOAL, progress)

    def frame(self):
        return np.full((9, 9, 3), int(self.sum) % 256, np.uint8)


class Constant(PolicyNetwork):
    """Says that the clean chunk is the numbers 1 to 16 times a factor; counts its calls."""

    def __init__(self, factor: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.config = NetworkConfig(1, 1)
        self.clean = torch.arange(1.0, 17.0)[:, None] * factor
        self.calls: list[int] = []

    def forward(self, sample, timestep, condition):
        self.calls.append(int(timestep))
        return self.clean.expand(len(sample), -1, -1)


def policy(factor: float = 1.0) -> ChunkPolicy:
    return ChunkPolicy(Constant(factor), Sum({}))


def adders(count: int) -> Sequence[Adder]:
    return [Adder() for _ in range(count)]
