"""Whether an observation jumped: features of the last chunk's kind are not trusted there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch


def encoded(observation: Any) -> torch.Tensor:
    """All numbers of an observation as one vector, float32, on the CPU."""
    parts = [part.detach().float().flatten().cpu() for part in _tensors(observation)]
    return torch.cat(parts) if parts else torch.zeros(0)


class Jumps:
    """Compares each observation with the one before.

    Args:
        threshold: a change above this share of the larger observation's length is a jump.
        encode: observation -> vector.
    """

    def __init__(self, threshold: float, encode: Callable[[Any], torch.Tensor] = encoded) -> None:
        self.threshold, self.encode = threshold, encode
        self.last: torch.Tensor | None = None

    def see(self, observation: Any) -> bool:
        """Whether this observation jumped: the first one did, and one of another size or with NaN."""
        now, last = self.encode(observation), self.last
        self.last = now.clone()
        if last is None or last.shape != now.shape:
            return True
        change = float(torch.linalg.vector_norm(now - last))
        size = max(float(torch.linalg.vector_norm(now)), float(torch.linalg.vector_norm(last)))
        # NaN compares as false.
        return not change <= self.threshold * size


def copied(observation: Any) -> Any:
    """The observation in memory of its own: another thread reads it while the robot goes on."""
    if isinstance(observation, torch.Tensor):
        return observation.clone()
    if isinstance(observation, np.ndarray):
        return observation.copy()
    if isinstance(observation, Mapping):
        return {key: copied(value) for key, value in observation.items()}
    if isinstance(observation, list | tuple):
        return type(observation)(map(copied, observation))
    return observation


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, np.ndarray | np.number | float | int) and not isinstance(value, bool):
        yield torch.as_tensor(np.asarray(value))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
