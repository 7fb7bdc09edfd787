"""PushT in the block's frame: features of an observation, and actions relative to the agent.

A state is agent x, agent y, block x, block y, block angle (pixels, radians), as gym-pusht gives it.
"""

from __future__ import annotations

import math

import torch

# Corners of the T in its frame, pixels.
CORNERS = torch.tensor(
    [(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], dtype=torch.float32
)
GOAL = (256.0, 256.0, math.pi / 4)
FEATURES = 58


def rotate(points: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """The points `[..., 2]` turned by the angles `[...]`."""
    cos, sin = angle.cos(), angle.sin()
    x, y = points[..., 0], points[..., 1]
    return torch.stack([cos * x - sin * y, sin * x + cos * y], -1)


def encode(states: torch.Tensor) -> torch.Tensor:
    """Features `[..., observations, 58]` of the states `[..., observations, 5]`, the newest last."""
    states = states.float()
    agent, block, angle = states[..., :2], states[..., 2:4], states[..., 4]
    near = rotate(agent - block, -angle)
    # Contact is decided within a few pixels: waves of 240 to 30 pixels show the agent's place that finely.
    waves = torch.cat([near * (2 * math.pi / length) for length in (240, 120, 60, 30)], -1)
    error = corner_error(block, angle)
    before = torch.cat([states[..., :1, :], states[..., :-1, :]], -2)
    moved = rotate(agent - before[..., :2], -angle) / 20
    parts = [
        near / 100,
        waves.sin(),
        waves.cos(),
        error / 100,
        error.sign() * (error.abs() / 4).log1p() / 2,
        (agent - 256) / 256,
        (block - 256) / 256,
        torch.stack([angle.cos(), angle.sin()], -1),
        moved,
    ]
    return torch.cat(parts, -1)


def corner_error(block: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Way from each corner of the block to its goal, in the block's frame, pixels, `[..., 16]`."""
    goal = rotate(CORNERS, torch.tensor(GOAL[2])) + torch.tensor(GOAL[:2])
    way = rotate(goal - block[..., None, :], -angle[..., None]) - CORNERS
    return way.flatten(-2)


def to_chunk(targets: torch.Tensor, state: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Targets `[rows, horizon, 2]` in pixels as normalised actions in the block's frame.

    Args:
        targets: where the agent shall go.
        state: the newest states `[rows, 5]`.
        scale: pixels of a unit at each action of the chunk `[horizon, 1]`.
    """
    return rotate(targets - state[:, None, :2], -state[:, None, 4]) / scale


def to_targets(chunk: torch.Tensor, state: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Normalised actions `[rows, horizon, 2]` as targets in pixels: the inverse of `to_chunk`."""
    targets = rotate(chunk * scale, state[:, None, 4]) + state[:, None, :2]
    return targets.clamp(0, 512)
