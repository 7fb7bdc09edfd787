"""How much each evaluation's output moves the final sample, found by a copy of the sampler on scalars.

A sampler is linear in the outputs of the denoiser: the final sample is a weighted sum of them and of the
noise. The weights are found without the denoiser. A fresh sampler with the same table walks down it once,
with a batch of samples. As many as there are evaluations are given an output in one evaluation each; as many
more are given twice that, which shows whether the sampler is linear; and one is given none, which shows
whether it adds noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from dcache.identity.run import Run

# Small, so that samplers which clip the predicted picture to [-1, 1] do not.
_PULSE = 1e-4
# Copied from the sampler as it is, where setting the number of steps alone does not make them.
_TABLES = ("timesteps", "sigmas")


def step_effects(sampler: Any, run: Run) -> tuple[float, ...] | None:
    """|d final sample / d output| for every evaluation of a run.

    Args:
        sampler: the sampler of the run, as its `set_timesteps` left it; it is not changed.
        run: the run, whose length is known.

    Returns:
        One number for each evaluation; None where a copy cannot be made, where the sampler adds noise, or
        where the final sample is not linear in the outputs.
    """
    count = run.count
    timesteps = getattr(sampler, "timesteps", None)
    if count is None or not isinstance(timesteps, torch.Tensor) or len(timesteps) < run.start + count:
        return None
    try:
        pulses = torch.eye(count, dtype=torch.float64) * _PULSE
        outputs = torch.cat([pulses, 2.0 * pulses, torch.zeros(count, 1, dtype=torch.float64)], 1)
        samples = _walk(sampler, run.start, outputs[:, :, None, None, None]).flatten()
        once, twice, nothing = samples[:count], samples[count:-1], samples[-1]
    except Exception:  # Samplers fail in a dozen ways where they are stepped by hand.
        return None
    effects = (once / _PULSE).abs()
    linear = torch.allclose(2.0 * once, twice, rtol=1e-3, atol=1e-3 * float(once.abs().max()))
    if bool(nothing.any()) or not linear or not bool(torch.isfinite(effects).all()) or not effects.any():
        return None
    return tuple(effects.tolist())


def noise_level_effects(sigmas: Sequence[float], count: int) -> tuple[float, ...] | None:
    """|sigma_t - sigma_(t + 1)|, which replaces `step_effects`; None where the noise levels are not known."""
    levels = list(sigmas[: count + 1])
    if len(levels) == count:
        levels.append(0.0)
    if len(levels) <= count or not all(map(math.isfinite, levels)):
        return None
    effects = tuple(abs(a - b) for a, b in pairwise(levels))
    return effects if any(effects) else None


def _walk(sampler: Any, start: int, outputs: torch.Tensor) -> torch.Tensor:
    """The final samples of a fresh copy of the sampler, whose samples begin at zero.

    Args:
        sampler: the sampler.
        start: entry of its table at which the run begins.
        outputs: (T, N, 1, 1, 1), the denoiser's outputs for N samples in T evaluations.
    """
    copy = type(sampler).from_config(sampler.config)
    try:
        copy.set_timesteps(sampler.num_inference_steps)
    except (AttributeError, TypeError, ValueError):
        # Flow matching with dynamic shifting needs the size of the picture; the tables below have it.
        copy.num_inference_steps = getattr(sampler, "num_inference_steps", len(outputs))
    for name in _TABLES:
        table = getattr(sampler, name, None)
        if isinstance(table, torch.Tensor):
            setattr(copy, name, table.detach().clone().cpu())
    if start and callable(getattr(copy, "set_begin_index", None)):
        copy.set_begin_index(start)
    sample = torch.zeros_like(outputs[0])
    scaled = getattr(copy, "scale_model_input", None)
    for output, timestep in zip(outputs, copy.timesteps[start : start + len(outputs)], strict=True):
        if scaled is not None:
            # There is no denoiser to scale for, but some samplers log a warning where it is left out.
            scaled(sample, timestep)
        sample = copy.step(output, timestep, sample, return_dict=False)[0]
    return sample
