"""The evaluations that a sampler's table lists: their timesteps and noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from dcache.identity.run import Run


def run_from(sampler: Any) -> Run:
    """A run over the table of a sampler as it is now, with the entries that are evaluated."""
    config = getattr(sampler, "config", {})
    sigmas = _numbers(getattr(sampler, "sigmas", None))
    alphas = getattr(sampler, "alphas_cumprod", None)
    timesteps = _numbers(getattr(sampler, "timesteps", None))
    if len(sigmas) < len(timesteps):
        sigmas = []
    entries = _evaluated(sampler, timesteps, sigmas)
    if len(entries) < len(timesteps):
        timesteps = [timesteps[i] for i in entries]
        sigmas = [sigmas[i] for i in entries] if sigmas else []
    flow = bool(
        config.get("use_flow_sigmas")
        or str(config.get("prediction_type", "")).startswith("flow")
        or (alphas is None and sigmas and max(sigmas) <= 1.0)
    )
    return Run(
        timesteps=timesteps,
        sigmas=sigmas,
        alphas_cumprod=_numbers(alphas) if not sigmas else [],
        flow=flow,
        sampler=type(sampler).__name__,
        late=_has_stepped(sampler),
    )


def _has_stepped(sampler: Any) -> bool:
    """Whether the sampler is in the middle of a walk: its own index is behind the entry that it begins at."""
    index, begin = getattr(sampler, "_step_index", None), getattr(sampler, "begin_index", None)
    return isinstance(index, int) and index > (begin if isinstance(begin, int) else 0)


def _evaluated(sampler: Any, timesteps: Sequence[float], sigmas: Sequence[float]) -> list[int]:
    """Indices of the entries that a denoiser is called for."""
    every = list(range(len(timesteps)))
    if callable(getattr(sampler, "undo_step", None)):
        # RePaint's table goes up and down; on the way up noise is added without the denoiser.
        return [i for i in every if i == 0 or timesteps[i] < timesteps[i - 1]]
    if len(timesteps) > 1 and timesteps[-1] == 0.0:
        # Wuerstchen's table from 1 to 0 and SCM's from pi / 2 to 0 end with the clean picture. Samplers whose
        # last evaluation is at timestep 0 have no more entries than steps, or (PNDM, Heun) repeat some.
        falling = all(a > b for a, b in pairwise(timesteps))
        surplus = getattr(sampler, "num_inference_steps", None) == len(timesteps) - 1
        # LTX's long videos give flow matching a grid with its own end.
        clean = sigmas[len(timesteps) - 1] == 0.0 if sigmas else False
        if max(timesteps) <= 1.0 or (falling and (surplus or clean)):
            return every[:-1]
    return every


def _numbers(values: Any) -> list[float]:
    if values is None:
        return []
    if isinstance(values, torch.Tensor):
        return [float(v) for v in values.detach().flatten().tolist()]
    return [float(v) for v in values]
