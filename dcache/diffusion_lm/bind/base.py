"""`Binding`: what every way to reach a model's attention does."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from dcache.diffusion_lm.passes import Pass
from dcache.errors import DcacheError


class Binding(ABC):
    """Runs a model with its attention calls given to a `Pass`.

    Args:
        model: the model.

    Attributes:
        name: for statistics.
    """

    name = ""

    def __init__(self, model: nn.Module) -> None:
        parameters = inspect.signature(model.forward).parameters
        self.takes = frozenset(parameters)
        self.takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    @abstractmethod
    def run(self, forward: Pass, call: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Call the model.

        Args:
            forward: the pass that its attention calls belong to.
            call: the model's call behind dcache's intercept.
            arguments: `input_ids`, `position_ids`, in full passes `attention_mask`, and the caller's others.
        """

    def fitting(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, without positions where the model takes none."""
        dropped = () if self.takes_any or "position_ids" in self.takes else ("position_ids",)
        return {name: value for name, value in arguments.items() if name not in dropped}

    def remove(self) -> None:  # noqa: B027 - most bindings put nothing on the model
        """Take off what was put on the model."""


def logits_of(output: Any) -> torch.Tensor:
    """The logits `[B, T, V]` of a model's output.

    Raises:
        DcacheError: it has no field `logits`.
    """
    logits = getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor):
        raise DcacheError(
            f"the model must return an object with logits, got {type(output).__name__}: leave "
            "return_dict=False out, or return one"
        )
    return logits
