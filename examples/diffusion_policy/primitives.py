"""PushT's push primitives: what a straight push of the disc does to the T, measured with gym-pusht's physics.

The physics is quasi-static (damping 0): in the block's frame a push's effect does not depend on the pose.
"""

from dataclasses import dataclass

import numpy as np

# Corners of the T in its frame, and the radius of the agent's disc, pixels.
CORNERS = np.array(
    [(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], float
)
RADIUS = 15.0
ANGLES = (-0.6, -0.3, 0.0, 0.3, 0.6)
LENGTHS = (5, 6, 8, 11, 15, 21, 30, 42, 60)
ORIGIN = np.array([256.0, 256.0])


@dataclass(frozen=True)
class Primitives:
    """Pushes in the block's frame: the disc's start and direction, length, how the block moves and turns."""

    start: np.ndarray
    direction: np.ndarray
    length: np.ndarray
    moved: np.ndarray
    turned: np.ndarray


def measure():
    """All pushes that move the block: 79 contact points, 5 directions, 9 lengths."""
    rows = []
    for point, normal in zip(*outline(), strict=True):
        start = point + normal * (RADIUS + 3)
        # In a concave corner the disc does not fit.
        if distance(start[None])[0] < RADIUS + 0.5:
            continue
        for angle in ANGLES:
            direction = -rotation(angle) @ normal
            for length in LENGTHS:
                moved, turned = effect(start, direction, length)
                if abs(turned) + np.abs(moved).sum() >= 1e-3:
                    rows.append((*start, *direction, length, *moved, turned))
    table = np.array(rows)
    return Primitives(table[:, :2], table[:, 2:4], table[:, 4], table[:, 5:7], table[:, 7])


def effect(start, direction, length):
    """How the block moves and turns."""
    import pymunk
    from gym_pusht.envs.pusht import PushTEnv

    space = pymunk.Space()
    space.gravity, space.damping = (0, 0), 0.0
    agent = PushTEnv.add_circle(space, (256, 400), 15)
    block, _ = PushTEnv.add_tee(space, (256, 300), 0)
    block.position, block.angle = tuple(ORIGIN), 0
    agent.position = tuple(ORIGIN + start)
    space.step(0.01)
    steps = max(1, int(np.ceil(length / 12)))
    # The agent lags behind its target: four more control steps complete the push.
    for i in [*range(1, steps + 1), *[steps] * 4]:
        control(space, agent, ORIGIN + start + direction * length * i / steps)
    return np.array(block.position) - ORIGIN, block.angle


def control(space, agent, target):
    """One control step of gym-pusht: a tenth of a second of its PD controller."""
    for _ in range(10):
        acceleration = 100 * (target - np.array(agent.position)) - 20 * np.array(agent.velocity)
        agent.velocity = tuple(np.array(agent.velocity) + acceleration * 0.01)
        space.step(0.01)


def outline(spacing=6.0):
    """Points on the T's outline, and their outward normals."""
    points, normals = [], []
    for a, b in zip(CORNERS, np.roll(CORNERS, -1, 0), strict=True):
        length = np.linalg.norm(b - a)
        x, y = (b - a) / length
        count = max(2, int(length // spacing))
        points += [a + (b - a) * (j + 0.5) / count for j in range(count)]
        normals += [np.array([y, -x])] * count
    return np.array(points), np.array(normals)


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def distance(points):
    """Distance of points in the block's frame to the T; negative inside."""
    to_edges = []
    for a, b in zip(CORNERS, np.roll(CORNERS, -1, 0), strict=True):
        along = np.clip(((points - a) @ (b - a)) / ((b - a) @ (b - a)), 0, 1)
        to_edges.append(np.linalg.norm(points - (a + along[:, None] * (b - a)), axis=1))
    nearest, (x, y) = np.min(to_edges, 0), points.T
    inside = ((np.abs(x) <= 60) & (y >= 0) & (y <= 30)) | ((np.abs(x) <= 15) & (y >= 0) & (y <= 120))
    return np.where(inside, -nearest, nearest)
