"""A scripted expert for PushT: the best of the measured pushes, one look ahead, and a way round the block."""

import heapq

import numpy as np
from primitives import CORNERS, RADIUS, distance, rotation

GOAL = np.array([256.0, 256.0, np.pi / 4])
CENTRE = CORNERS.mean(0)
GOAL_CENTRE = GOAL[:2] + rotation(GOAL[2]) @ CENTRE
SPREAD = ((CORNERS - CENTRE) ** 2).sum(1).mean()
# Cells of the grid for ways, pixels; it reaches from -16 to 528.
CELL, CELLS = 12.0, 46
AXIS = np.arange(CELLS) * CELL - 16.0
CENTRES = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), -1).reshape(-1, 2)
# Pixels of a control step: on the way, and pushing.
MOVE, PUSH = 18.0, 11.0
# Price of a pixel of travel. With three times as much it gets stuck in small pushes near by.
TRAVEL = 0.0005
LOOK_AHEAD = (6, 11, 21, 42)


class Expert:
    """Plans one push at a time; `act` gives its targets one by one.

    Args:
        pushes: the measured primitives.
    """

    def __init__(self, pushes):
        self.pushes = pushes
        self.ahead = np.isin(pushes.length, LOOK_AHEAD)
        self.targets = []

    def act(self, state):
        """The next target for a state (agent, block, angle)."""
        if not self.targets:
            agent, pose = state[:2], np.array([*state[2:4], wrapped(state[4])])
            self.targets = self.plan(agent, pose)
        return np.clip(self.targets.pop(0), 0, 512)

    def plan(self, agent, pose):
        chosen, turn = self.choose(agent, pose), rotation(pose[2])
        start = pose[:2] + turn @ self.pushes.start[chosen]
        push = turn @ self.pushes.direction[chosen] * self.pushes.length[chosen]
        targets, at = [], agent
        for corner in way(agent, start, pose):
            targets += line(at, corner, MOVE)
            at = corner
        # The agent lags behind its target: two more steps complete the push.
        return [*targets, start, *line(start, start + push, PUSH), start + push, start + push]

    def choose(self, agent, pose):
        turn, pushes = rotation(pose[2]), self.pushes
        start = pose[:2] + pushes.start @ turn.T
        position, angle = self.after(pose[:2], np.asarray(pose[2]), slice(None))
        travel = np.linalg.norm(start - agent, axis=1) + 0.5 * pushes.length
        centre = pose[:2] + turn @ CENTRE
        # Round the block it is farther than the straight line.
        round_it = np.abs(wrapped(bearing(start - centre) - bearing(agent - centre), 0.0)) * 90
        travel = np.maximum(travel, round_it)
        outside = ((start < 4) | (start > 508) | (position < 60) | (position > 452)).any(1)
        now = error(pose[:2], np.asarray(pose[2]))
        score = error(position, angle) / now + np.where(outside, 1e3, 0)
        best = np.argsort(score + TRAVEL * travel)[:30]
        second = error(*self.after(position[best], angle[best], self.ahead)).min(1) / now
        return best[int(np.argmin(0.6 * score[best] + 0.4 * second + TRAVEL * travel[best]))]

    def after(self, position, angle, chosen):
        """Positions and angles after each push, from one pose or from many."""
        cos, sin = np.cos(angle)[..., None], np.sin(angle)[..., None]
        x, y = self.pushes.moved[chosen].T
        moved = np.stack([cos * x - sin * y, sin * x + cos * y], -1)
        return position[..., None, :] + moved, angle[..., None] + self.pushes.turned[chosen]


def error(position, angle):
    """Root mean square distance of the T's corners to where they belong: closed form about their mean."""
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.stack([CENTRE[0] * cos - CENTRE[1] * sin, CENTRE[0] * sin + CENTRE[1] * cos], -1)
    off = ((position + turned - GOAL_CENTRE) ** 2).sum(-1)
    return np.sqrt(off + 2 * SPREAD * (1 - np.cos(angle - GOAL[2])))


def way(agent, goal, pose):
    """Corners of a short way that keeps off the block: A* on a grid, then straightened."""
    free = distance((CENTRES - pose[:2]) @ rotation(pose[2])).reshape(CELLS, CELLS)
    cost = np.where(free < RADIUS + 1.5, 1e3, np.where(free < RADIUS + 10, 1.5, 1.0))
    path = [*grid_path(cell_of(agent), cell_of(goal), cost)[1:], goal]
    corners, at, i = [], agent, 0
    while i < len(path):
        last = len(path) - 1
        while last > i and not clear(at, path[last], pose):
            last -= 1
        at = path[last]
        corners.append(at)
        i = last + 1
    return corners


def grid_path(start, goal, cost):
    """Centres of cells from start to goal."""
    costs, before, queue, done = {start: 0.0}, {}, [(0.0, start)], set()
    while queue:
        _, cell = heapq.heappop(queue)
        if cell == goal:
            break
        if cell in done:
            continue
        done.add(cell)
        for other in neighbours(cell):
            step = np.hypot(other[0] - cell[0], other[1] - cell[1]) * 0.5 * (cost[cell] + cost[other])
            if costs[cell] + step < costs.get(other, np.inf):
                costs[other], before[other] = costs[cell] + step, cell
                left = np.hypot(other[0] - goal[0], other[1] - goal[1])
                heapq.heappush(queue, (costs[other] + left, other))
    cells = [goal]
    while cells[-1] in before:
        cells.append(before[cells[-1]])
    return [np.array(cell) * CELL - 16 for cell in reversed(cells)]


def neighbours(cell):
    for x in (cell[0] - 1, cell[0], cell[0] + 1):
        for y in (cell[1] - 1, cell[1], cell[1] + 1):
            if (x, y) != cell and 0 <= x < CELLS and 0 <= y < CELLS:
                yield x, y


def cell_of(point):
    return tuple(np.clip(np.round((point + 16) / CELL).astype(int), 0, CELLS - 1))


def clear(a, b, pose):
    """Whether the straight line between two points keeps off the block."""
    count = max(2, int(np.linalg.norm(b - a) // 4))
    points = (a + (b - a) * np.linspace(0, 1, count)[:, None] - pose[:2]) @ rotation(pose[2])
    return bool((distance(points[1:-1]) > RADIUS + 2).all()) if count > 2 else True


def line(a, b, step):
    """Targets from a to b, without a."""
    count = max(1, int(np.ceil(np.linalg.norm(b - a) / step)))
    return [a + (b - a) * (i + 1) / count for i in range(count)]


def bearing(vectors):
    return np.arctan2(vectors[..., 1], vectors[..., 0])


def wrapped(angle, about=np.pi / 4):
    """The angle within half a turn of another."""
    return (angle - about + np.pi) % (2 * np.pi) - np.pi + about
