"""Profiles of the shipped policies: the policy as a pipeline whose prompts are numbers of observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from dcache.demo.policies.open_loop import Observations
from dcache.demo.policies.policy import ChunkPolicy, shipped_folder
from dcache.demo.policies.sampling import Sampler
from dcache.errors import DcacheError
from dcache.profile import Profile


@dataclass(eq=False)
class PolicyPipeline:
    """A policy that is called as a diffusers pipeline is, for `dcache.search.observe`.

    Attributes:
        policy: the policy.
        observations: what prompts are the numbers of.
        sampler: kind and number of steps.
    """

    policy: ChunkPolicy
    observations: Observations
    sampler: Sampler

    @property
    def components(self) -> dict[str, Any]:
        """The network, named as a pipeline's denoiser."""
        return self.policy.components

    @property
    def scheduler(self) -> Any:
        """The sampler of the last call."""
        return self.policy.scheduler

    def __call__(
        self,
        prompt: Sequence[str],
        generator: Sequence[torch.Generator],
        output_type: str = "np",
    ) -> Any:
        """Chunks as pictures `[rows, horizon, action, 1]`, under the name that pipelines give them.

        Args:
            prompt: numbers of observations.
            generator: for each row; its seed decides the noise.
            output_type: as pipelines take it, without effect.
        """
        rows = [int(text) for text in prompt]
        seeds = [noise.initial_seed() for noise in generator]
        chunks = self.policy.chunks(self.observations.states[rows], seeds, self.sampler)
        return SimpleNamespace(images=chunks[..., None].numpy())


def profile_path(task: str, steps: int, folder: Path | None = None) -> Path:
    """The file of a shipped profile."""
    return (shipped_folder(task) if folder is None else folder) / f"steps-{steps}.profile.safetensors"


def load_profile(task: str, steps: int) -> Profile:
    """The shipped profile of runs with so many evaluations.

    Raises:
        DcacheError: there is none.
    """
    path = profile_path(task, steps)
    if not path.exists():
        raise DcacheError(
            f"there is no profile of {task} with {steps} evaluations: `python examples/diffusion_policy/"
            f"observe.py {task} --steps {steps}` makes one"
        )
    return Profile.load(path)
