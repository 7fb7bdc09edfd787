"""Names of guidance branches: the cache context, the ordinal of the call, or its conditioning tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dcache.cache.history import Branch
from dcache.errors import DcacheError
from dcache.identity.loop import MOST_BRANCHES

_CONDITIONS = (
    "encoder_hidden_states",
    "context",
    "prompt_embeds",
    "caption_embeds",
    "encoder_hidden_states_t5",
)


class BranchNames:
    """Names the guidance branch of each call of one run: its ordinal within the evaluation.

    A call that brings another branch's conditioning tensor is that branch, so that one which stops calling
    does not shift the rest.
    """

    def __init__(self) -> None:
        self._ordinal = -1
        self._index = -1
        self._view = self._first = 0

    def take_back(self) -> None:
        """The newest call failed: the next one has its ordinal."""
        self._ordinal = max(-1, self._ordinal - 1)

    def name(
        self, index: int, condition: torch.Tensor | None, branches: Mapping[str, Branch], view: int = 0
    ) -> str:
        """The branch of a call in evaluation `index` with this conditioning tensor.

        Args:
            index: the evaluation, from 0.
            condition: the conditioning tensor, where it is known.
            branches: the branches so far, by name.
            view: how often the sampler was set back in this evaluation: each view has its own branches.

        Raises:
            DcacheError: more calls between two sampler steps than can be guidance branches.
        """
        self._ordinal = self._ordinal + 1 if self._index == index else 0
        if self._index != index or self._view != view:
            self._first = self._ordinal
        self._index, self._view = index, view
        calls = self._ordinal - self._first + 1
        if calls > MOST_BRANCHES:
            raise DcacheError(
                f"the denoiser was called {calls} times between two sampler steps; dcache takes "
                f"such calls for guidance branches and supports at most {MOST_BRANCHES}. Call "
                "dcache.step(module, index=..., branch=...) before each denoiser call."
            )
        name = str(self._ordinal)
        branch = branches.get(name)
        if condition is None or branch is None or branch.condition is None or branch.condition() is condition:
            return name
        for other in branches.values():
            if other.condition is not None and other.condition() is condition:
                return other.name
        return name


def condition_of(kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """The conditioning tensor of a call, where one is passed by a known name."""
    for name in _CONDITIONS:
        value = kwargs.get(name)
        if isinstance(value, torch.Tensor) and value.ndim == 3:
            return value
    return None
