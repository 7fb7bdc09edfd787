"""`Sampled`: a policy of a denoiser and one of diffusers' samplers, with warm starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from dcache.errors import DcacheError
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
            whose first dimension is the batch; None passes the observation itself. Arrays become tensors.
        generator: of the noise; None is torch's own.
        decode: chunk in the sampler's scale -> actions, where they are normalised; None is the chunk itself.
        encode: the inverse of `decode`, which warm starts need: they begin with actions.

    Raises:
        DcacheError: there is `encode` without `decode`.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        sampler: Any,
        shape: tuple[int, int],
        steps: int,
        condition: Callable[[Any], Any] | None = None,
        generator: torch.Generator | None = None,
        decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
        encode: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.denoiser, self.sampler, self.shape, self.steps = denoiser, sampler, shape, steps
        self.condition = condition or (lambda observation: observation)
        self.generator, self.decode, self.encode = generator, decode, encode
        if encode is not None and decode is None:
            raise DcacheError("encode is the inverse of decode: give decode= too, from chunks to actions")

    @torch.no_grad()
    def __call__(self, observation: Any, start: Start | None = None) -> torch.Tensor:
        """A chunk, (B, horizon, numbers of an action).

        Args:
            observation: what `condition` takes.
            start: the last chunk, moved on; None begins with noise.

        Raises:
            DcacheError: the condition has no tensor, or a warm start lacks `encode`.
        """
        like = next((p for p in self.denoiser.parameters() if p.is_floating_point()), torch.zeros(0))
        args, kwargs = _arguments(self.condition(observation), like)
        given = next((x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor) and x.ndim), None)
        if given is None:
            raise DcacheError(
                f"the condition must be a tensor or array (B, ...), or several of them, got "
                f"{type(observation).__name__}: give condition=, a function from an observation to them"
            )
        self.sampler.set_timesteps(self.steps)
        timesteps = self.sampler.timesteps
        if start is None:
            sample = torch.randn((len(given), *self.shape), generator=self.generator).to(like)
            sample = sample * getattr(self.sampler, "init_noise_sigma", 1.0)
        else:
            actions = self._encoded(start.actions).to(like).reshape(-1, *self.shape)
            sample, timesteps = warm_start(actions, 0, start.level, self.sampler, self.generator)
            begin = getattr(self.sampler, "set_begin_index", None)
            if begin is not None:
                begin(len(self.sampler.timesteps) - len(timesteps))
        scale = getattr(self.sampler, "scale_model_input", lambda x, _: x)
        for t in timesteps:
            output = self.denoiser(scale(sample, t), t.to(like.device), *args, **kwargs)
            sample = self.sampler.step(output, t, sample).prev_sample
        return sample if self.decode is None else self.decode(sample)

    def _encoded(self, actions: torch.Tensor) -> torch.Tensor:
        """Actions in the sampler's scale."""
        if self.decode is not None and self.encode is None:
            raise DcacheError(
                "a warm start begins with the last actions in the sampler's scale: give Sampled encode=, the "
                "inverse of decode"
            )
        return actions if self.encode is None else self.encode(actions)

    # `dcache.enable` recognises a policy by this method.
    predict_action_chunk = __call__


def _arguments(condition: Any, like: torch.Tensor) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if isinstance(condition, Mapping):
        return (), {name: _tensor(value, like) for name, value in condition.items()}
    parts = condition if isinstance(condition, list | tuple) else (condition,)
    return [_tensor(part, like) for part in parts], {}


def _tensor(value: Any, like: torch.Tensor) -> Any:
    """An array as a tensor on the denoiser's device, in its dtype where the array is of 64-bit numbers."""
    if not isinstance(value, np.ndarray):
        return value
    tensor = torch.as_tensor(value).to(like.device)
    return tensor.to(like.dtype) if tensor.dtype == torch.float64 else tensor
