"""Outputs and arguments of arbitrary modules as flat tensors, and back."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from dcache.intercept.objects import object_mark
from dcache.kernels.changes import changes

_FLAGS = (bool, str, type(None))


def flatten(output: Any) -> tuple[tuple[Any, ...], Any]:
    """Split an output into leaves and a recipe for `rebuild`. Leaves that are no tensors are constants."""
    if isinstance(output, torch.Tensor):
        return (output,), None
    if type(output) is tuple and not any(isinstance(item, tuple | list | dict) for item in output):
        return output, tuple
    leaves, spec = pytree.tree_flatten(output)
    return tuple(leaves), spec


def rebuild(leaves: Sequence[Any], recipe: Any) -> Any:
    """The inverse of `flatten`."""
    if recipe is None:
        return leaves[0]
    if recipe is tuple:
        return tuple(leaves)
    return pytree.tree_unflatten(list(leaves), recipe)


def copy_containers(value: Any) -> Any:
    """The same tensors in fresh lists, tuples and dicts: some forwards pop from their keyword arguments."""
    if type(value) is dict:
        return {key: copy_containers(item) for key, item in value.items()}
    if type(value) is list:
        return [copy_containers(item) for item in value]
    if type(value) is tuple:
        return tuple([copy_containers(item) for item in value])
    return value


def gpus(*values: Any) -> list[int]:
    """Indices of the CUDA devices that tensors among these lie on, for `torch.random.fork_rng`."""
    leaves = pytree.tree_leaves(values)
    return sorted({leaf.get_device() for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_cuda})


def signature(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Hashable:
    """A key that two calls have in common if they may share histories: shapes, dtypes, devices, flags.

    Of an object it is what `object_mark` reads: a cache of keys and values that is in another mode makes
    another call.
    """
    marks: list[Hashable] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            marks.append((value.shape, value.dtype, value.device))
        elif isinstance(value, _FLAGS):
            marks.append(value)
        else:
            marks.append(_mark(value))
    return (len(args), tuple(kwargs), tuple(marks))


def _mark(value: Any) -> Hashable:
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype, value.device
    if isinstance(value, _FLAGS):
        return value
    if isinstance(value, list | tuple):
        return tuple(value) if all(isinstance(item, int) for item in value) else signature(value, {})
    if isinstance(value, dict):
        return signature((), value)
    # A timestep may be 1.0 now and 0 later.
    return ("object", "float") if isinstance(value, int | float) else object_mark(value)


def samples(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[torch.Tensor]:
    """The first argument that is a tensor, or a list or tuple of tensors alone (Z-Image's latents)."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            return (value,)
        if isinstance(value, list | tuple) and value and all(isinstance(x, torch.Tensor) for x in value):
            return value
    return ()


def first_tensor(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """The first tensor of `samples`."""
    for tensor in samples(args, kwargs):
        return tensor
    return None


def batch_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """The sample, (B, ...), where it is one tensor; None where it comes as a list, a tensor for each row."""
    first = first_tensor(args, kwargs)
    # Of a list it is an item, which is no argument itself.
    return first if any(value is first for value in (*args, *kwargs.values())) else None


def parameters_of(forward: Any) -> list[inspect.Parameter]:
    """Parameters of a forward; empty where its signature cannot be read (a scripted module's)."""
    try:
        return list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        return []


def argument_names(forward: Any) -> list[str]:
    """Names of a forward's positional parameters; empty where its signature cannot be read."""
    parameters = parameters_of(forward)
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def same(a: Any, b: Any) -> tuple[float, bool]:
    """Largest relative L1 distance between two outputs' tensors, and whether their structures agree."""
    left, right = flatten(a)[0], flatten(b)[0]
    if len(left) != len(right):
        return float("inf"), False
    worst = 0.0
    for x, y in zip(left, right, strict=True):
        if isinstance(x, torch.Tensor) != isinstance(y, torch.Tensor):
            return float("inf"), False
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            if x.shape != y.shape:
                return float("inf"), False
            sums = changes(y, x, ("distance", "length"))
            distance = sums.mean("distance") / sums.mean("length").clamp_min(1e-12)
            worst = float("inf") if distance.isnan() else max(worst, float(distance))
    return worst, True
