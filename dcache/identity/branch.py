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

    def name(self, index: int, condition: torch.Tensor | None, branches: Mapping[str, Branch]) -> str:
        """The branch of a call in evaluation `index` with this conditioning tensor.

        Raises:
            DcacheError: more calls in one evaluation than can be guidance branches.
        """
        self._ordinal = self._ordinal + 1 if self._index == index else 0
        self._index = index
        if self._ordinal >= MOST_BRANCHES:
            raise DcacheError(
                f"the denoiser was called {self._ordinal + 1} times between two sampler steps; dcache takes "
                f"such calls for guidance branches and supports at most {MOST_BRANCHES}. Call "
                "dcache.step(module, index=..., branch=...) before each denoiser call."
            )
        name = str(self._ordinal)
        own = branches.get(name)
        if condition is None or own is None or own.condition is None or own.condition() is condition:
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
