"""Train a diffusion policy on demonstrations: prediction of clean chunks, 100 noise levels, EMA.

    python examples/diffusion_policy/train.py drawer-open --seconds 75
    python examples/diffusion_policy/train.py pusht --seconds 2400

One line of JSON every half a minute. The same command goes on after a kill.
"""

import argparse
import copy
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from muon import Muon

from dcache.demo.policies.network import NetworkConfig, PolicyNetwork
from dcache.demo.policies.policy import ChunkPolicy, save_policy, task_of
from dcache.demo.policies.sampling import LEVELS, Sampler
from dcache.demo.policies.tasks import windows

ROWS, RATE, EMA = 128, 1.5e-3, 0.999
SIZES = {"drawer-open": {"hidden": 64, "encoder": 128}, "pusht": {}}


def demonstrations(folder, horizon=16):
    """Windows of all files: states `[N, 2, state]`, actions `[N, horizon, action]`."""
    parts, files = [], sorted(folder.glob("*.npz"))
    if not files:
        sys.exit(f"no demonstrations in {folder}: make them with demonstrate.py")
    for path in files:
        content = np.load(path)
        ends = np.cumsum(content["lens"])[:-1]
        for states, actions in zip(
            np.split(content["obs"], ends), np.split(content["act"], ends), strict=True
        ):
            parts.append(windows(states, actions, horizon))
    return tuple(torch.tensor(np.concatenate(part)) for part in zip(*parts, strict=True))


def numbers_of(name, states, actions):
    """What the task's normalisation needs."""
    if name == "drawer-open":
        return {"mean": states[:, -1].mean(0), "deviation": states[:, -1].std(0) + 1e-3}
    plain = task_of(name)({"scale": torch.ones(actions.shape[1], 1)})
    return {"scale": plain.chunk(actions, states[:, -1]).square().mean((0, 2)).sqrt()[:, None]}


def encoded(task, states, actions):
    """Features and normalised chunks of all windows."""
    features = torch.cat([task.encode(part) for part in states.split(8192)])
    pairs = zip(actions.split(8192), states.split(8192), strict=True)
    return features, torch.cat([task.chunk(part, state[:, -1]) for part, state in pairs])


def optimizers_of(network):
    """Muon for the matrices inside the network, AdamW for everything else."""
    inside = ("decoder.", "memory.", "observation_in.2.")
    matrices = [p for name, p in network.named_parameters() if p.dim() == 2 and name.startswith(inside)]
    chosen = {id(matrix) for matrix in matrices}
    others = [p for p in network.parameters() if id(p) not in chosen]
    return Muon(matrices), torch.optim.AdamW(others, weight_decay=1e-4, betas=(0.9, 0.95))


class Training:
    """The state of a training, which a file keeps."""

    def __init__(self, network):
        self.network, self.averaged = network, copy.deepcopy(network)
        self.muon, self.adam = optimizers_of(network)
        self.step, self.seconds = 0, 0.0
        self.shares = Sampler().scheduler().alphas_cumprod
        # Velocity's weights, cut off: nearly clean chunks decide how exact actions are.
        weights = (1 / (1 - self.shares)).clamp(max=5)
        self.weights = weights / weights.mean()

    def update(self, features, chunks, progress):
        rate = RATE * min(1, (self.step + 1) / 100) * max(0.01, 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.muon.param_groups + self.adam.param_groups:
            group["lr"] = rate
        rows = torch.randint(0, len(chunks), (ROWS,))
        level = torch.randint(0, LEVELS, (ROWS,))
        share, clean = self.shares[level][:, None, None], chunks[rows]
        noisy = share.sqrt() * clean + (1 - share).sqrt() * torch.randn_like(clean)
        error = (self.network(noisy, level, features[rows]) - clean).square().mean((1, 2))
        self.network.zero_grad()
        (error * self.weights[level]).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.muon.step()
        self.adam.step()
        self.step += 1
        decay = min(EMA, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.network.parameters()), 1 - decay)
        return float(error.detach()[level < LEVELS // 2].mean())

    def parts(self):
        return {"network": self.network, "averaged": self.averaged, "muon": self.muon, "adam": self.adam}

    def save(self, path):
        content = {name: part.state_dict() for name, part in self.parts().items()}
        torch.save(content | {"step": self.step, "seconds": self.seconds}, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load(self, path):
        content = torch.load(path)
        for name, part in self.parts().items():
            part.load_state_dict(content[name])
        self.step, self.seconds = content["step"], content["seconds"]


def train(name, folder, out, seconds):
    """Train for so many CPU seconds in all; write the averaged weights."""
    torch.manual_seed(0)
    states, actions = demonstrations(folder)
    task = task_of(name)(numbers_of(name, states, actions))
    features, chunks = encoded(task, states, actions)
    training = Training(PolicyNetwork(NetworkConfig(task.features, task.action, **SIZES[name])))
    out.mkdir(parents=True, exist_ok=True)
    state = out / "training.pt"
    if state.exists():
        training.load(state)
        # Other noise than that of the updates before.
        torch.manual_seed(training.step)
    began, last, errors = time.process_time() - training.seconds, time.time(), []
    while training.seconds < seconds:
        training.seconds = time.process_time() - began
        errors.append(training.update(features, chunks, min(1.0, training.seconds / seconds)))
        if time.time() - last > 30:
            last = time.time()
            figures = {
                "step": training.step,
                "seconds": round(training.seconds),
                "error": np.mean(errors[-200:]),
            }
            with (out / "losses.jsonl").open("a", encoding="utf-8") as lines:
                print(json.dumps(figures), file=lines)
            training.save(state)
    training.save(state)
    save_policy(ChunkPolicy(training.averaged.eval(), task), out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("drawer-open", "pusht"))
    parser.add_argument("--demonstrations", type=Path, help="default: build/TASK/demonstrations")
    parser.add_argument("--out", type=Path, help="default: build/TASK")
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    out = given.out or Path("build") / given.task
    train(given.task, given.demonstrations or out / "demonstrations", out, given.seconds)
