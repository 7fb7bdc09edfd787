"""`History`: the last observations together, for policies that are given several."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dcache.policy.jumps import copied
from dcache.util.checks import check_whole


class History:
    """Stacks the last observations: tensors and arrays (B, ...) become (B, steps, ...), oldest first.

    For `Loop(..., observe=History(2))`, which calls it with every observation. At the beginning of an episode
    the first one is repeated. What is no tensor or array (an instruction) is the newest observation's.

    >>> seen = History(2)
    >>> [seen(torch.tensor([[i]])).tolist() for i in (1.0, 2.0, 3.0)]
    [[[[1.0], [1.0]]], [[[1.0], [2.0]]], [[[2.0], [3.0]]]]

    Args:
        steps: observations that are stacked.

    Raises:
        DcacheError: `steps` is no whole number of at least 1.
    """

    def __init__(self, steps: int) -> None:
        self.steps = check_whole("steps", steps, 1)
        self.seen: deque[Any] = deque(maxlen=self.steps)

    def __call__(self, observation: Any) -> Any:
        """The last observations, stacked.

        Args:
            observation: the newest one: a tensor, an array, or a mapping of them.
        """
        self.seen.append(copied(observation))
        missing = self.steps - len(self.seen)
        return _stacked([self.seen[0]] * missing + list(self.seen))

    def reset(self) -> None:
        """A new episode begins."""
        self.seen.clear()


def _stacked(parts: Sequence[Any]) -> Any:
    newest = parts[-1]
    if isinstance(newest, Mapping):
        return {key: _stacked([part[key] for part in parts]) for key in newest}
    if isinstance(newest, torch.Tensor):
        return torch.stack(list(parts), 1)
    return np.stack(parts, 1) if isinstance(newest, np.ndarray) else newest
