"""One call of a denoiser, and how its timestep and its guidance branch are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dcache.containers import argument_names
from dcache.errors import DcacheError
from dcache.history import Branch
from dcache.loop import MOST_BRANCHES, TIME_NAMES
from dcache.run import Run

_CONDITIONS = (
    "encoder_hidden_states",
    "context",
    "prompt_embeds",
    "caption_embeds",
    "encoder_hidden_states_t5",
)


@dataclass(slots=True, eq=False)
class Call:
    """One call of the denoiser.

    Attributes:
        observing: the first call of its signature; it computes, and blocks note their contracts.
        checking: a replay by the self-check; every site is predicted from what was just stored.
        entered: runs of blocks that were entered and not left (0 at the end, or a block was dropped).
        peek: runs the first block as far as its attention, where the rule's probe sits there.
        peeking: whether that is under way.
        counts: what was recorded before it, where it may have to be done again.
        half: (rows of the whole batch, those that are run), where only a part of them is.
    """

    branch: Branch
    index: int
    tau: float
    observing: bool = False
    checking: bool = False
    predicted: int = 0
    computed: int = 0
    entered: int = 0
    peek: Callable[[], Any] | None = None
    peeking: bool = False
    half: tuple[int, slice] | None = None
    counts: tuple[int, int, dict[str, int]] | None = None


@dataclass
class Told:
    """What `dcache.step` said of the calls to come."""

    run: Run
    branch: str | None
    seen: set[str] = field(default_factory=set)


class TimeArgument:
    """Where a denoiser takes its timestep, found by the argument's name."""

    def __init__(self, module: nn.Module) -> None:
        names = argument_names(type(module).forward)[1:]
        self.name = next((n for n in TIME_NAMES if n in names), None)
        self.place = names.index(self.name) if self.name else -1
        self.is_sigma = self.name is not None and self.name.startswith(("sigma", "noise"))

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
        """The call's timestep (one sync on a GPU), or None where it has not exactly one value."""
        value = kwargs.get(self.name) if self.name else None
        if value is None and 0 <= self.place < len(args):
            value = args[self.place]
        if isinstance(value, torch.Tensor):
            if value.numel() == 0 or (value.numel() > 1 and bool((value != value.flatten()[0]).any())):
                return None
            return float(value.flatten()[0])
        return float(value) if isinstance(value, int | float) else None


class BranchNames:
    """Names the guidance branch of each call.

    The name of diffusers' cache context where there is one, else the ordinal of the call within the
    evaluation. A call
    that brings another branch's conditioning tensor is that branch, so one that stops calling does not
    shift the rest.

    Attributes:
        context: the cache context the pipeline is in, or None.
    """

    def __init__(self) -> None:
        self.context: str | None = None
        self._ordinal = -1
        self._index = -1

    def restart(self) -> None:
        """A new run begins."""
        self._index = -1

    def name(self, index: int, condition: torch.Tensor | None, branches: Mapping[str, Branch]) -> str:
        """The branch of a call in evaluation `index` with this conditioning tensor.

        Raises:
            DcacheError: more calls in one evaluation than can be guidance branches.
        """
        if self.context is not None:
            return self.context
        self._ordinal = self._ordinal + 1 if self._index == index else 0
        self._index = index
        if self._ordinal > MOST_BRANCHES:
            raise DcacheError(
                f"the denoiser was called {self._ordinal + 1} times between two sampler steps; dcache "
                f"takes such calls for guidance branches and believes in at most {MOST_BRANCHES}. Call "
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
