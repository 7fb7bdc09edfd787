"""Tensors in nested containers; those of a denoiser's arguments by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from dcache.intercept.pytree import named_arguments


def tensors_of(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Name -> tensor of all tensors in a call's arguments, those in containers under dotted names."""
    return dict(_walk("", named_arguments(module, args, kwargs)))


def tensors_in(value: Any) -> Sequence[torch.Tensor]:
    """The tensors in a nested container, in the order of its leaves."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _walk(prefix: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield prefix, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _walk(f"{prefix}.{i}", item)
    elif not isinstance(value, str | bytes):
        for i, leaf in enumerate(tensors_in(value)):
            yield f"{prefix}.{i}", leaf
