"""Demonstrations by scripted experts, with noise on what is executed and none on what is recorded.

    python examples/diffusion_policy/demonstrate.py pusht --episodes 500
    python examples/diffusion_policy/demonstrate.py drawer-open --episodes 300
    python examples/diffusion_policy/demonstrate.py pusht --episodes 24 --observations

The last writes observations.safetensors, of held-out episodes. The same command goes on after a kill: files
that exist are not made again. Needs the extra `policy`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from expert import GOAL, Expert, distance, rotation
from primitives import RADIUS, measure
from safetensors.torch import save_file

from dcache.demo.policies.bench import HELD_OUT
from dcache.demo.policies.drawer import DrawerSimulator
from dcache.demo.policies.pusht import PushTSimulator
from dcache.demo.policies.tasks import windows
from dcache.util.files import write

NOISE = {"pusht": (2.0, 4.0), "drawer-open": (0.1, 0.1)}
# Episodes of a file, actions at most, and actions that are recorded behind success.
FILE, LIMIT, BEHIND = 50, 300, {"pusht": 0, "drawer-open": 8}
# Observations of an episode that are kept.
KEPT = 4


def episode(task, simulator, expert, seed):
    """States and actions of an episode; None where it was not solved."""
    random = np.random.default_rng(seed)
    near = task == "pusht" and seed % 3 == 0
    state = simulator.reset(seed, near_goal(random)) if near else simulator.reset(seed)
    noise, states, actions, left = NOISE[task][seed % 2], [], [], None
    for _ in range(LIMIT):
        action = expert(state)
        states.append(state)
        actions.append(action)
        low, high = (0, 512) if task == "pusht" else (-1, 1)
        executed = np.clip(action + random.normal(size=action.shape) * noise, low, high)
        outcome = simulator.step(executed.astype(np.float32))
        state = outcome.state
        if outcome.success or left is not None:
            left = BEHIND[task] if left is None else left - 1
            if left == 0:
                return np.array(states, np.float32), np.array(actions, np.float32)
    return None


def near_goal(random):
    """A state with the block near its goal: the last pixels are what decides PushT."""
    while True:
        pose = GOAL + random.normal(size=3) * (30, 30, 0.35)
        agent = random.uniform(50, 450, 2)
        if distance(((agent - pose[:2]) @ rotation(pose[2]))[None])[0] > RADIUS + 4:
            return np.array([*agent, *pose])


def experts(task):
    """A simulator, and a function that makes the expert of an episode."""
    if task == "drawer-open":
        simulator = DrawerSimulator()
        return simulator, simulator.expert
    pushes = measure()
    return PushTSimulator(), lambda: Expert(pushes).act


def demonstrate(task, folder, episodes, first):
    folder.mkdir(parents=True, exist_ok=True)
    simulator, expert = experts(task)
    for start in range(first, first + episodes, FILE):
        seeds = range(start, min(start + FILE, first + episodes))
        path = folder / f"{start:07d}-{len(seeds)}.npz"
        if path.exists():
            continue
        solved = [rows for seed in seeds if (rows := episode(task, simulator, expert(), seed))]
        print(f"{len(solved)} of {len(seeds)} solved", flush=True)
        if not solved:
            continue
        states, actions = zip(*solved, strict=True)
        lengths = [len(rows) for rows in states]
        arrays = {"lens": lengths, "obs": np.concatenate(states), "act": np.concatenate(actions)}
        write(path, lambda file, arrays=arrays: np.savez(file, **arrays))


def observe(task, folder, episodes):
    """A few moments of each held-out episode."""
    folder.mkdir(parents=True, exist_ok=True)
    simulator, expert = experts(task)
    random, kept = np.random.default_rng(0), []
    for seed in range(HELD_OUT, HELD_OUT + episodes):
        rows = episode(task, simulator, expert(), seed)
        if rows is not None:
            states, actions = windows(*rows, 16)
            chosen = np.sort(random.choice(len(states), KEPT, replace=False))
            kept.append((states[chosen], actions[chosen]))
    names = ("states", "actions")
    if not kept:
        sys.exit(f"no episode of {episodes} was solved: give more --episodes")
    tensors = {
        n: torch.tensor(np.concatenate(part)) for n, part in zip(names, zip(*kept, strict=True), strict=True)
    }
    write(folder / "observations.safetensors", lambda file: save_file(tensors, file))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("drawer-open", "pusht"))
    parser.add_argument("--episodes", type=int, required=True)
    parser.add_argument("--first", type=int, default=1000, help="seed of the first episode")
    parser.add_argument("--out", type=Path, help="folder (default: build/TASK, or its demonstrations)")
    parser.add_argument("--observations", action="store_true", help="held-out observations instead")
    given = parser.parse_args()
    build = Path("build") / given.task
    if given.observations:
        observe(given.task, given.out or build, given.episodes)
    else:
        demonstrate(given.task, given.out or build / "demonstrations", given.episodes, given.first)
