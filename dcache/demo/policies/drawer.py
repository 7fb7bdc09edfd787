"""MetaWorld's drawer-open: an easy task, solved by every sensible setting (a smoke test)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dcache.demo.policies.packages import require_simulator
from dcache.demo.policies.tasks import Outcome, State, Task, as_state

TASK = "drawer-open-v3"


class Drawer(Task):
    """States of 39 numbers, actions of 4 (the hand's motion and the gripper), in [-1, 1]."""

    name = "drawer-open"
    title = "MetaWorld drawer-open"
    state, action, features = 39, 4, 39
    limit = 200
    unit = "of [-1, 1]"

    def encode(self, states: torch.Tensor) -> torch.Tensor:
        """The states by mean and standard deviation of the demonstrations."""
        return (states.float() - self.numbers["mean"]) / self.numbers["deviation"]

    def actions(self, chunk: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The chunk within [-1, 1]: actions are normalised as they are."""
        return chunk.clamp(-1, 1)

    def chunk(self, actions: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The actions as they are."""
        return actions

    def simulator(self) -> DrawerSimulator:
        """A MetaWorld environment.

        Raises:
            DcacheError: metaworld or its mujoco is not installed.
        """
        return DrawerSimulator()


class DrawerSimulator:
    """One MetaWorld environment; needs no display."""

    def __init__(self) -> None:
        require_simulator("metaworld", "mujoco")
        os.environ.setdefault("MUJOCO_GL", "disable")
        benchmark = _benchmark()
        self.tasks = benchmark.train_tasks
        self.environment: Any = benchmark.train_classes[TASK]()

    def reset(self, seed: int) -> State:
        """Begin an episode with the drawer at a place that the seed decides."""
        environment = self.environment
        environment.set_task(self.tasks[seed % len(self.tasks)])
        # Without this every episode of a task has the drawer at the same place.
        environment._freeze_rand_vec = False
        # MetaWorld draws places from numpy's global generator or from its own, by version.
        with seeded(seed):
            environment.seed(seed)
            state, _ = environment.reset()
        return as_state(state)

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """Move the hand; progress is success."""
        state, _, _, _, info = self.environment.step(action)
        success = bool(info["success"] > 0.5)
        return Outcome(as_state(state), success, float(success))

    def frame(self) -> NDArray[np.uint8]:
        """A picture by MuJoCo's renderer, where it has a display."""
        frame: NDArray[np.uint8] = self.environment.render()
        return frame

    def expert(self) -> Callable[[State], NDArray[np.float32]]:
        """MetaWorld's own scripted policy: state -> action."""
        from metaworld.policies import ENV_POLICY_MAP

        policy: Any = ENV_POLICY_MAP[TASK]()
        return lambda state: np.clip(policy.get_action(state), -1, 1).astype(np.float32)


@cache
def _benchmark() -> Any:
    """MetaWorld's task with its fifty places; takes a second to make."""
    import metaworld

    return metaworld.MT1(TASK, seed=0)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator for a while."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
