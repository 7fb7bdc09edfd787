"""Sampling of action chunks: DDPM and DDIM on a squared cosine schedule, noise by seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dcache.errors import DcacheError

# Noise levels that the policies were trained on.
LEVELS = 100
KINDS = ("ddpm", "ddim")


@dataclass(frozen=True)
class Sampler:
    """A sampler of chunks.

    Attributes:
        kind: "ddpm" or "ddim".
        steps: evaluations of a chunk.
    """

    kind: str = "ddpm"
    steps: int = LEVELS

    def __post_init__(self) -> None:
        """Check the kind and the number of steps.

        Raises:
            DcacheError: one is not valid.
        """
        if self.kind not in KINDS or not 1 <= self.steps <= LEVELS:
            raise DcacheError(
                f"expected a sampler of {' or '.join(KINDS)} with 1 to {LEVELS} steps, got "
                f"{self.kind!r} with {self.steps}"
            )

    def __str__(self) -> str:
        return f"{self.kind.upper()} {self.steps}"

    def scheduler(self) -> Any:
        """Diffusers' scheduler with its timesteps set."""
        from diffusers import DDIMScheduler, DDPMScheduler

        kind = DDPMScheduler if self.kind == "ddpm" else DDIMScheduler
        scheduler = kind(
            num_train_timesteps=LEVELS,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="sample",
            clip_sample=False,
        )
        scheduler.set_timesteps(self.steps)
        return scheduler


def noise_of(seeds: Sequence[int]) -> list[torch.Generator]:
    """A generator for each row of a batch: a row's noise does not depend on the other rows."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def sample(
    network: nn.Module,
    condition: torch.Tensor,
    shape: tuple[int, int],
    noise: Sequence[torch.Generator],
    scheduler: Any,
    start: torch.Tensor | None = None,
    level: int | None = None,
) -> torch.Tensor:
    """Normalised chunks `[rows, horizon, action]`.

    Args:
        network: the denoiser.
        condition: encoded observations of the rows.
        shape: horizon and numbers of an action.
        noise: a generator for each row.
        scheduler: diffusers' scheduler; its timesteps are set here, which begins a run.
        start: chunks to begin with in place of noise; noised up to the first level that is left.
        level: evaluations that are left with `start`; None for all.
    """
    scheduler.set_timesteps(scheduler.num_inference_steps)
    times = scheduler.timesteps if level is None else scheduler.timesteps[-level:]
    chunk = torch.stack([torch.randn(shape, generator=row) for row in noise])
    if start is not None:
        chunk = scheduler.add_noise(start, chunk, times[:1])
    with torch.no_grad():
        for time in times:
            clean = network(chunk, time, condition)
            chunk = scheduler.step(clean, time, chunk, generator=list(noise)).prev_sample
    return chunk
