"""A policy's task: features of its states, actions of its chunks, and its simulator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

State = NDArray[np.float32]


@dataclass(frozen=True)
class Outcome:
    """State and progress of an episode after an action.

    Attributes:
        state: the state after it.
        success: the task is solved.
        progress: how far it is solved, 0 to 1.
    """

    state: State
    success: bool
    progress: float


class Simulator(Protocol):
    """One simulated episode at a time."""

    def reset(self, seed: int) -> State:
        """Begin an episode; the seed alone decides how."""

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """Apply an action."""

    def frame(self) -> NDArray[np.uint8]:
        """A picture of the episode now, `[height, width, 3]`."""


class Task(ABC):
    """States, features and actions of a task.

    Args:
        numbers: what the normalisation needs, as the trained policy's file has it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    # Numbers of a state and of an action, and the features of an observation.
    state: ClassVar[int]
    action: ClassVar[int]
    features: ClassVar[int]
    # Actions of an episode at most, and those of a chunk that are executed before the next chunk.
    limit: ClassVar[int]
    executed: ClassVar[int] = 8
    # Unit of an action error.
    unit: ClassVar[str]

    def __init__(self, numbers: Mapping[str, torch.Tensor]) -> None:
        self.numbers = dict(numbers)

    @abstractmethod
    def encode(self, states: torch.Tensor) -> torch.Tensor:
        """Features `[rows, observations, features]` of the last states `[rows, observations, state]`."""

    @abstractmethod
    def actions(self, chunk: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Actions `[rows, horizon, action]` of normalised chunks, for the newest states `[rows, state]`."""

    @abstractmethod
    def chunk(self, actions: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Normalised chunks of actions: the inverse of `actions`."""

    @abstractmethod
    def simulator(self) -> Simulator:
        """A simulator of the task.

        Raises:
            DcacheError: its packages are not installed.
        """


def windows(states: State, actions: State, horizon: int) -> tuple[State, State]:
    """All training windows of an episode: the last two states, and the actions that follow.

    Args:
        states: `[T, state]`.
        actions: `[T, action]`, taken in those states.
        horizon: actions of a window; the last action is repeated behind the end.

    Returns:
        `[T, 2, state]` and `[T, horizon, action]`.
    """
    at = np.arange(len(states))[:, None]
    before = np.concatenate([states[:1], states])
    behind = np.concatenate([actions, np.repeat(actions[-1:], horizon, 0)])
    return before[at + np.arange(2)], behind[at + np.arange(horizon)]


def as_state(values: Any) -> State:
    """A simulator's observation as float32."""
    return np.asarray(values, np.float32)
