"""`Sampled`: a policy of a denoiser and one of diffusers' samplers, with warm starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dcache.policy.warm import Start, warm_start


class Sampled:
    """Makes a chunk of actions under an observation.

    Args:
        denoiser: called as `denoiser(sample, timestep, *condition)`, or with keywords where the condition is
            a mapping.
        sampler: one of diffusers'.
        shape: horizon and numbers of an action.
        steps: noise levels of a chunk.
        condition: observation -> further arguments of the denoiser, as a mapping, a sequence or one tensor,
            whose first dimension is the batch; None passes the observation itself.
        generator: of the noise; None is torch's own.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        sampler: Any,
        shape: tuple[int, int],
        steps: int,
        condition: Callable[[Any], Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.denoiser, self.sampler, self.shape, self.steps = denoiser, sampler, shape, steps
        self.condition = condition or (lambda observation: observation)
        self.generator = generator

    @torch.no_grad()
    def __call__(self, observation: Any, start: Start | None = None) -> torch.Tensor:
        """A chunk, (B, horizon, numbers of an action).

        Args:
            observation: what `condition` takes.
            start: the last chunk, moved on; None begins with noise.
        """
        args, kwargs = _arguments(self.condition(observation))
        given = next(x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor))
        self.sampler.set_timesteps(self.steps)
        timesteps = self.sampler.timesteps
        if start is None:
            sample = torch.randn((len(given), *self.shape), generator=self.generator).to(given)
            sample = sample * getattr(self.sampler, "init_noise_sigma", 1.0)
        else:
            sample, timesteps = warm_start(
                start.actions.to(given).reshape(-1, *self.shape), 0, start.level, self.sampler, self.generator
            )
            begin = getattr(self.sampler, "set_begin_index", None)
            if begin is not None:
                begin(len(self.sampler.timesteps) - len(timesteps))
        scale = getattr(self.sampler, "scale_model_input", lambda x, _: x)
        for t in timesteps:
            output = self.denoiser(scale(sample, t), t.to(given.device), *args, **kwargs)
            sample = self.sampler.step(output, t, sample).prev_sample
        return sample

    # By this name `dcache.enable` knows a policy.
    predict_action_chunk = __call__


def _arguments(condition: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if isinstance(condition, Mapping):
        return (), condition
    return (condition if isinstance(condition, list | tuple) else (condition,)), {}
