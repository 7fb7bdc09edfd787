"""`ChunkPolicy`: a network with its task, and the shipped ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dcache.demo import data
from dcache.demo.policies.drawer import Drawer
from dcache.demo.policies.network import NetworkConfig, PolicyNetwork
from dcache.demo.policies.pusht import PushT
from dcache.demo.policies.sampling import Sampler, noise_of, sample
from dcache.demo.policies.tasks import Task
from dcache.errors import DcacheError
from dcache.util import files

TASKS: dict[str, type[Task]] = {task.name: task for task in (Drawer, PushT)}
NETWORK, TASK = "network.", "task."


@dataclass(eq=False)
class ChunkPolicy:
    """A diffusion policy: the last two states in, a chunk of actions out.

    It has the two things by which `dcache.enable` finds its way in a pipeline: its modules, and the sampler
    of the call.

    Attributes:
        network: the denoiser.
        task: features and actions.
        scheduler: diffusers' scheduler of the last chunk.
    """

    network: PolicyNetwork
    task: Task
    scheduler: Any = None
    _sampler: Sampler | None = None

    @property
    def components(self) -> dict[str, nn.Module]:
        """The network, named as a pipeline's denoiser."""
        return {"network": self.network}

    @property
    def shape(self) -> tuple[int, int]:
        """Actions of a chunk, numbers of an action."""
        return self.network.config.horizon, self.network.config.action

    def chunks(
        self,
        states: torch.Tensor,
        seeds: Sequence[int],
        sampler: Sampler,
        start: torch.Tensor | None = None,
        level: int | None = None,
    ) -> torch.Tensor:
        """Normalised chunks `[rows, horizon, action]`.

        Args:
            states: the last states of each row, `[rows, observations, state]`.
            seeds: seed of each row's noise.
            sampler: kind and number of steps.
            start: normalised chunks to begin with in place of noise.
            level: evaluations that are left with `start`.
        """
        condition = self.task.encode(states)
        if sampler != self._sampler:
            self.scheduler, self._sampler = sampler.scheduler(), sampler
        return sample(self.network, condition, self.shape, noise_of(seeds), self.scheduler, start, level)

    # A name by which `dcache.enable` and `dcache.memory_estimate` know a policy.
    predict_action_chunk = chunks

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits over the weights."""
        content = hashlib.sha256()
        for name, weight in sorted(self.network.state_dict().items()):
            content.update(name.encode() + weight.float().numpy().tobytes())
        return content.hexdigest()[:12]


def task_of(name: str) -> type[Task]:
    """The task of a name.

    Raises:
        DcacheError: there is none.
    """
    if name not in TASKS:
        raise DcacheError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]


def shipped_folder(task: str) -> Path:
    """The folder of a shipped policy, with its observations and profiles."""
    return data.folder("policies") / task


def load_policy(name: str, folder: Path | None = None) -> ChunkPolicy:
    """A trained policy, float32, on the CPU.

    Args:
        name: the task.
        folder: with config.json and model.safetensors; None for the shipped one.

    Raises:
        DcacheError: there is no such task, or the folder has no policy of it.
    """
    kind = task_of(name)
    folder = shipped_folder(name) if folder is None else folder
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}
        network = PolicyNetwork(NetworkConfig(**config)).eval()
        network.load_state_dict(_below(NETWORK, tensors))
        task = kind(_below(TASK, tensors))
    except Exception as error:  # Missing and damaged files raise half a dozen kinds of errors.
        raise DcacheError(
            f"{folder} has no policy of {name} ({type(error).__name__}): expected config.json and "
            "model.safetensors of examples/diffusion_policy/train.py"
        ) from error
    wanted = (kind.features, kind.action)
    if (network.config.observation, network.config.action) != wanted:
        raise DcacheError(f"{folder} has a policy of another task than {name}: give --task")
    return ChunkPolicy(network, task)


def save_policy(policy: ChunkPolicy, folder: Path) -> None:
    """Write config.json and model.safetensors (float16)."""
    files.make_folder(folder)
    tensors = {NETWORK + key: value for key, value in policy.network.state_dict().items()}
    tensors |= {TASK + key: value for key, value in policy.task.numbers.items()}
    halves = {key: value.half().contiguous() for key, value in tensors.items()}
    files.write(folder / "model.safetensors", lambda path: save_file(halves, path))
    files.write_json(folder / "config.json", asdict(policy.network.config))


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
