"""Binding by calls of `scaled_dot_product_attention`, for models without an interface or a cache argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from dcache.diffusion_lm.bind.base import Binding
from dcache.diffusion_lm.passes import Pass, current, running
from dcache.intercept.sdpa import SdpaCalls


class SdpaBinding(Binding):
    """Stores rows where `scaled_dot_product_attention` is called.

    Where heads are repeated before that call, the repeated ones are stored. A model that takes no positions
    has its rotary module, called with queries and keys, run on all positions, of which the rows are taken.
    """

    name = "sdpa calls"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._handles: list[Any] = []
        if not self.takes & {"position_ids"}:
            for path, part in model.named_modules():
                if _rotates_both(path, part):
                    self._handles.append(part.register_forward_pre_hook(_spread))
                    self._handles.append(part.register_forward_hook(_gather))

    def run(self, forward: Pass, call: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """See `Binding.run`."""
        fitting = self.fitting(arguments)
        if "position_ids" not in self.takes:
            fitting.pop("position_ids", None)
        with running(forward), SdpaCalls(partial(attend, forward)):
            return call(**fitting)

    def remove(self) -> None:
        """Remove the hooks on rotary modules."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def attend(forward: Pass, call: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an sdpa call with keys, values and mask of all positions."""
    keys, values, mask = forward.attention(
        call["query"], call["key"], call["value"], call.get("attn_mask"), call.get("scale")
    )
    causal = forward.capture and call.get("is_causal", False)
    return {**call, "key": keys, "value": values, "attn_mask": mask, "is_causal": causal}


def _rotates_both(path: str, part: nn.Module) -> bool:
    """Whether this is a rotary module that is called with queries and keys, their positions implied."""
    names = list(inspect.signature(part.forward).parameters)
    return "rotary" in path.rpartition(".")[2] and len(names) == 2 and names[0].startswith("q")


def _spread(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Queries and keys `[B, heads, K, d]` of rows, on a canvas of all positions."""
    forward = current()
    if forward is None or forward.selection.full:
        return None
    T = forward.selection.mask.shape[1]

    def spread(x: torch.Tensor) -> torch.Tensor:
        B, H, K, d = x.shape
        rows = x.transpose(1, 2).reshape(B, K, H * d)
        canvas = forward.selection.put(x.new_zeros(B, T, H * d), rows)
        return canvas.view(B, T, H, d).transpose(1, 2)

    return tuple(spread(x) for x in args)


def _gather(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    forward = current()
    if forward is None or forward.selection.full:
        return None
    selection = forward.selection
    return tuple(selection.take(x.transpose(1, 2)).transpose(1, 2) for x in output)
