"""The timestep argument of a denoiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dcache.identity.loop import TIME_NAMES
from dcache.intercept.pytree import argument_names, parameters_of


def takes_time(module: nn.Module) -> bool:
    """Whether a module's call has an argument of a timestep's name."""
    return any(name in TIME_NAMES for name in argument_names(type(module).forward))


class TimeArgument:
    """Where a denoiser takes its timestep, found by the argument's name.

    A forward of `**kwargs` that names none (a wrapper) is called with it.
    """

    def __init__(self, module: nn.Module) -> None:
        names = argument_names(type(module).forward)[1:]
        self.name = next((n for n in TIME_NAMES if n in names), None)
        self.passes_on = self.name is None and any(
            p.kind is p.VAR_KEYWORD for p in parameters_of(type(module).forward)
        )
        self.place = names.index(self.name) if self.name else -1
        self.is_sigma = self.name is not None and self.name.startswith(("sigma", "noise"))

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
        """The call's timestep (one sync on a GPU), or None where it has not exactly one value."""
        return number(self.argument(args, kwargs))

    def argument(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The timestep argument of a call, None without one."""
        if self.passes_on:
            self._find(kwargs)
        value = kwargs.get(self.name) if self.name else None
        if value is None and 0 <= self.place < len(args):
            value = args[self.place]
        return value

    def _find(self, kwargs: Mapping[str, Any]) -> None:
        """Take the name by which a call brings a timestep, once and for all."""
        self.name = next((name for name in TIME_NAMES if name in kwargs), None)
        self.passes_on = self.name is None
        self.is_sigma = self.name is not None and self.name.startswith(("sigma", "noise"))


def number(value: Any) -> float | None:
    """A number or a tensor of one value as a float (one sync on a GPU); None for anything else."""
    if isinstance(value, torch.Tensor):
        if value.numel() == 0 or (value.numel() > 1 and bool((value != value.flatten()[0]).any())):
            return None
        return float(value.flatten()[0])
    return float(value) if isinstance(value, int | float) else None
