"""PushT of gym-pusht: push a T onto its goal. It tells settings apart: it is long, multimodal and exact."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dcache.demo.policies import pusht_frame
from dcache.demo.policies.packages import require_simulator
from dcache.demo.policies.tasks import Outcome, State, Task, as_state


class PushT(Task):
    """States of 5 numbers (`pusht_frame`), actions of 2: where the agent shall go, pixels."""

    name = "pusht"
    title = "PushT"
    state, action, features = 5, 2, pusht_frame.FEATURES
    limit = 300
    unit = "px"

    def encode(self, states: torch.Tensor) -> torch.Tensor:
        """The states as seen from the block."""
        return pusht_frame.encode(states)

    def actions(self, chunk: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Targets in pixels."""
        return pusht_frame.to_targets(chunk, state, self.numbers["scale"])

    def chunk(self, actions: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Targets relative to the agent, in the block's frame."""
        return pusht_frame.to_chunk(actions, state, self.numbers["scale"])

    def simulator(self) -> PushTSimulator:
        """A gym-pusht environment.

        Raises:
            DcacheError: gym-pusht or its pymunk is not installed.
        """
        return PushTSimulator()


class PushTSimulator:
    """One gym-pusht environment; needs no display. Progress is coverage, success is coverage above 0.95."""

    def __init__(self) -> None:
        require_simulator("gym_pusht", "pymunk")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        from gym_pusht.envs.pusht import PushTEnv

        self.environment: Any = PushTEnv(obs_type="state", render_mode="rgb_array")

    def reset(self, seed: int, state: NDArray[np.float64] | None = None) -> State:
        """Begin an episode at a random state, or at a given one (agent, block, angle)."""
        options = None if state is None else {"reset_to_state": state}
        states, _ = self.environment.reset(seed=seed, options=options)
        return as_state(states)

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """Send the agent towards a target for a tenth of a second."""
        state, _, _, _, info = self.environment.step(np.asarray(action, np.float64))
        return Outcome(as_state(state), bool(info["is_success"]), float(info["coverage"]))

    def frame(self) -> NDArray[np.uint8]:
        """A picture from above."""
        frame: NDArray[np.uint8] = self.environment.render()
        return frame
