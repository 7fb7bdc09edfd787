"""Open loop on shipped observations, without a simulator: action error at equal noise, and latencies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dcache
from dcache.demo.policies.bench import Progress, switched
from dcache.demo.policies.policy import ChunkPolicy, shipped_folder, task_of
from dcache.demo.policies.sampling import LEVELS, Sampler
from dcache.demo.policies.settings import Setting
from dcache.errors import DcacheError
from dcache.eval.arrays import load_arrays
from dcache.profile import Profile

OBSERVATIONS = "observations.safetensors"


@dataclass(frozen=True)
class Observations:
    """Moments of held-out demonstrations.

    Attributes:
        states: the last two states, `[N, 2, state]`.
        actions: what the expert did then, `[N, horizon, action]`.
    """

    states: torch.Tensor
    actions: torch.Tensor

    def __len__(self) -> int:
        return len(self.states)

    def first(self, count: int) -> Observations:
        """The first ones."""
        return Observations(self.states[:count], self.actions[:count])


@dataclass(frozen=True)
class Row:
    """One row of the open loop's table.

    Attributes:
        setting: its text.
        error: root mean square difference of the executed actions to 100 evaluations of the same sampler from
            the same noise, in the task's unit.
        expert_error: the same to the expert's actions.
        computed: share of site events that were computed, 1 without caching.
        evaluations: calls of the network for a chunk.
        milliseconds: CPU milliseconds of a chunk, batch 1: percentiles 50, 95, 99 and 100; () where no chunk
            was timed.
        speedup: median over observations of the first setting's CPU time divided by this one's; None where no
            chunk was timed.
    """

    setting: str
    error: float
    expert_error: float
    computed: float
    evaluations: int
    milliseconds: tuple[float, ...]
    speedup: float | None


def load_observations(task: str, path: Path | None = None) -> Observations:
    """The shipped observations of a task, or those of a file.

    Raises:
        DcacheError: the file cannot be read, or lacks states `[N, 2, state]` or actions.
    """
    shipped = load_arrays(shipped_folder(task_of(task).name) / OBSERVATIONS)
    arrays = shipped if path is None else load_arrays(path)
    sizes = {name: arrays[name].shape[1:] for name in shipped if name in arrays}
    counts = {len(arrays[name]) for name in sizes if arrays[name].ndim}
    if sizes != {name: array.shape[1:] for name, array in shipped.items()} or len(counts) != 1 or 0 in counts:
        wanted = ", ".join(f"{name} (N, {str(tuple(a.shape[1:]))[1:]}" for name, a in shipped.items())
        have = ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items()) or "no arrays"
        raise DcacheError(f"observations of {task} need {wanted}; {path} has {have}")
    return Observations(arrays["states"].float(), arrays["actions"].float())


def measure(
    policy: ChunkPolicy,
    settings: Sequence[Setting],
    observations: Observations,
    timed: int,
    profile: Callable[[int], Profile],
    progress: Progress = lambda _what, _done, _total: None,
) -> list[Row]:
    """Measure settings on observations.

    Args:
        policy: the policy.
        settings: the contestants, without warm start: there is no previous chunk.
        observations: all of them are one batch for the errors.
        timed: observations that are timed one by one, the settings in turns; 0 for none.
        profile: gives the profile of runs with so many evaluations.
        progress: called with a label, and the chunks done and planned.
    """
    methods = [setting.resolved(profile) for setting in settings]
    references = {
        kind: _actions(policy, observations, Sampler(kind, LEVELS))
        for kind in dict.fromkeys(setting.sampler.kind for setting in settings)
    }
    seconds = np.zeros((len(settings), timed))
    for turn in range(timed):
        for i, (setting, method) in enumerate(zip(settings, methods, strict=True)):
            progress(setting.spec, turn * len(settings) + i, timed * len(settings))
            seconds[i, turn] = _seconds(policy, observations, turn, setting.sampler, method)
    rows = []
    for i, (setting, method) in enumerate(zip(settings, methods, strict=True)):
        with switched(policy, method):
            actions = _actions(policy, observations, setting.sampler)
        computed = 1.0 if method is None else dcache.stats(policy).computed_share
        percentiles = np.percentile(seconds[i] * 1e3, [50, 95, 99, 100]).tolist() if timed else ()
        rows.append(
            Row(
                setting.spec,
                rms(actions, references[setting.sampler.kind]),
                rms(actions, observations.actions[:, : policy.task.executed]),
                computed,
                setting.sampler.steps,
                tuple(percentiles),
                float(np.median(seconds[0] / seconds[i])) if timed else None,
            )
        )
    return rows


def rms(actions: torch.Tensor, reference: torch.Tensor) -> float:
    """Root mean square of the distance between actions, over the numbers of an action its length."""
    return float((actions - reference).square().sum(-1).mean().sqrt())


def _actions(policy: ChunkPolicy, observations: Observations, sampler: Sampler) -> torch.Tensor:
    """The executed actions of a chunk for every observation; observation i has noise i."""
    chunks = policy.chunks(observations.states, range(len(observations)), sampler)
    return policy.task.actions(chunks, observations.states[:, -1])[:, : policy.task.executed]


def _seconds(
    policy: ChunkPolicy, observations: Observations, at: int, sampler: Sampler, method: Any
) -> float:
    """CPU seconds of one chunk of one observation, without the enabling."""
    states = observations.states[at : at + 1]
    with switched(policy, method):
        # The first call after enabling is checked by the engine, which a control loop pays once.
        policy.chunks(states, [at], sampler)
        began = time.process_time()
        policy.chunks(states, [at], sampler)
        return time.process_time() - began
