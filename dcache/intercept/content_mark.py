"""Marks of what an output depends on besides the tensors that are compared: weights, hooks, other arguments.

They are read from the contents: libraries that fuse adapters write through `.data`, which no version counts,
and offloading gives the same weights other addresses.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from dcache.intercept.pytree import flatten

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Attributes of adapters' layers (LoRA) that are no parameters.
_SWITCHES = ("scaling", "_active_adapter", "merged_adapters", "_disable_adapters")


def module_mark(module: nn.Module) -> Hashable:
    """A mark of a module's parameters, buffers, mode, hooks and adapters; reads all of its weights once.

    Where weights are on the meta device between calls (sequential offloading), no two marks are equal.
    """
    marks: list[Hashable] = []
    for name, part in module.named_modules():
        hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
        switches = tuple(repr(getattr(part, each, None)) for each in _SWITCHES)
        marks.append((name, part.training, tuple(map(id, hooks)), switches))
    tensors = [plain for whole in (*module.parameters(), *module.buffers()) for plain in _plain(whole)]
    sums = [_bit_sum(tensor) for tensor in tensors]
    # One synchronisation for each device.
    for device in {s.device for s in sums if isinstance(s, torch.Tensor)}:
        there = [s for s in sums if isinstance(s, torch.Tensor) and s.device == device]
        numbers = iter(torch.stack(there).tolist())
        sums = [next(numbers) if isinstance(s, torch.Tensor) and s.device == device else s for s in sums]
    marks += zip((tuple(t.shape) for t in tensors), (t.dtype for t in tensors), sums, strict=True)
    return tuple(marks)


def arguments_mark(arguments: dict[str, Any]) -> Hashable:
    """A mark of the contents of arguments by name."""
    marks: list[Hashable] = []
    for name in sorted(arguments):
        for leaf in flatten(arguments[name])[0]:
            if isinstance(leaf, torch.Tensor):
                data = leaf.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
                marks.append((name, tuple(leaf.shape), leaf.dtype, data))
            else:
                marks.append((name, repr(leaf)))
    return tuple(marks)


def _plain(tensor: Any) -> list[torch.Tensor]:
    """The plain tensors that a tensor is made of: quantised weights keep numbers and scales in several."""
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        return [plain for name in names for plain in _plain(getattr(tensor, name))]
    return [tensor]


@torch.no_grad()
def _bit_sum(tensor: torch.Tensor) -> Any:
    """The sum of a tensor's entries read as integers, which is the same on all devices and in any order.

    What cannot be read, such as weights that are elsewhere between calls, equals nothing.
    """
    if tensor.is_meta:
        return object()
    try:
        # A subclass with its own operations holds the same bytes.
        plain = tensor.detach().as_subclass(torch.Tensor)
        plain = torch.view_as_real(plain.resolve_conj()) if plain.is_complex() else plain
        return plain.view(_BITS[plain.element_size()]).sum(dtype=torch.int64)
    except (KeyError, NotImplementedError, RuntimeError):
        return object()
