"""Warm starts: a chunk of actions begins with the one before instead of with noise.

Falcon (arXiv 2503.00339) and RTI-DP (2508.05396): most of the last chunk still lies ahead. It is moved on by
the actions that were executed, noised to a level in the middle, and denoised under the new observation from
there. Nothing but numbers of actions is carried to the new observation: no features are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.util.checks import check_number


@dataclass(frozen=True)
class WarmStart:
    """When and how a chunk begins with the one before.

    Attributes:
        level: share of the noise levels that is walked, above 0 and at most 1: 0.4 walks the last 4 of 10.
        most: warm starts in a row before a chunk begins with noise.
    """

    level: float = 0.4
    most: int = 20

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            DcacheError: a value is out of range.
        """
        check_level(self.level)
        if isinstance(self.most, bool) or not isinstance(self.most, int) or self.most < 1:
            raise DcacheError(f"most must be a whole number of chunks, at least 1, got {self.most!r}")


@dataclass(frozen=True)
class Start:
    """What a chunk begins with.

    Attributes:
        actions: the last chunk, moved on: (B, horizon, numbers of an action), or without the batch.
        level: share of the noise levels that is walked.
    """

    actions: torch.Tensor
    level: float


def check_level(level: Any) -> float:
    """A share of the noise levels.

    Raises:
        DcacheError: it is no number above 0 and at most 1.
    """
    number = check_number("level", level)
    if not 0.0 < number <= 1.0:
        raise DcacheError(
            f"level is the share of the noise levels that is walked, above 0 and at most 1, got {level!r}"
        )
    return number


def moved_on(previous: torch.Tensor, shift: int) -> torch.Tensor:
    """A chunk without its first actions; the last action is repeated in their place.

    Args:
        previous: (..., horizon, numbers of an action).
        shift: actions that were executed, 0 to horizon - 1.

    Raises:
        DcacheError: the shift is out of range.

    >>> moved_on(torch.tensor([[1.0], [2.0], [3.0]]), 1).flatten().tolist()
    [2.0, 3.0, 3.0]
    """
    horizon = previous.shape[-2]
    if not 0 <= shift < horizon:
        raise DcacheError(f"shift must be 0 to {horizon - 1} actions of a chunk of {horizon}, got {shift}")
    return torch.cat(
        [previous[..., shift:, :], previous[..., -1:, :].expand_as(previous[..., :shift, :])], -2
    )


def warm_start(
    previous: torch.Tensor,
    shift: int,
    level: float,
    sampler: Any,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The noised sample that a chunk begins with, and the timesteps that are left.

    Args:
        previous: the last chunk, (B, horizon, numbers of an action), in the sampler's scale.
        shift: actions of it that were executed.
        level: share of the noise levels that is walked.
        sampler: one of diffusers', whose `set_timesteps` was called.
        generator: of the noise.

    Returns:
        The sample, of the shape of `previous`, and the last timesteps of the sampler.

    Raises:
        DcacheError: a number is out of range, or the sampler cannot add noise.
    """
    timesteps = sampler.timesteps
    left = timesteps[-max(1, round(check_level(level) * len(timesteps))) :]
    add = getattr(sampler, "add_noise", None) or getattr(sampler, "scale_noise", None)
    if add is None:
        raise DcacheError(
            f"{type(sampler).__name__} has neither add_noise nor scale_noise, which a warm start needs: use "
            "one of diffusers' samplers, or begin with noise"
        )
    actions = moved_on(previous, shift)
    noise = torch.randn(actions.shape, generator=generator, dtype=actions.dtype).to(actions.device)
    first = left[:1]
    if getattr(sampler, "add_noise", None) is None:
        return add(actions, first, noise), left
    return add(actions, noise, first), left
