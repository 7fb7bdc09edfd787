"""Outputs and arguments of arbitrary modules as flat tensors, and back."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache, partial
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from dcache.intercept.objects import CONTAINERS, PLAIN, attributes_of, object_mark
from dcache.kernels.changes import changes

_FLAGS = (bool, str, type(None))
# Names that denoisers and their blocks give the sample.
_SAMPLES = ("hidden_states", "sample", "latents", "x", "x_t", "noisy_actions", "action_with_noise")
_LEAVES = (torch.Tensor, *PLAIN)
_FUNCTIONS = (FunctionType, MethodType, partial)
# Objects within objects that are taken apart; what lies deeper stays one leaf.
_LEVELS = 3


@dataclass(frozen=True)
class _Object:
    """Recipe of a dataclass instance or a namespace.

    Attributes:
        kind: its class.
        names: of its fields.
        recipe: how the tuple of their values is put together.
        count: number of leaves of these.
    """

    kind: Any
    names: tuple[str, ...]
    recipe: Any
    count: int


@dataclass(frozen=True)
class _WithObjects:
    """Recipe of an output with such objects: for each leaf of `spec` an object's recipe, or None."""

    spec: Any
    objects: tuple[_Object | None, ...]


def flatten(output: Any, levels: int = _LEVELS) -> tuple[tuple[Any, ...], Any]:
    """Split an output into leaves and a recipe for `rebuild`. Leaves that are no tensors are constants.

    Dataclasses and namespaces are taken apart like dicts.

    Args:
        output: the output.
        levels: how many of them deep.
    """
    if isinstance(output, torch.Tensor):
        return (output,), None
    if type(output) is tuple and all(isinstance(item, _LEAVES) for item in output):
        return output, tuple
    leaves, spec = pytree.tree_flatten(output)
    attributes = [_fields_of(leaf) if levels else None for leaf in leaves]
    if all(values is None for values in attributes):
        return tuple(leaves), spec
    flat: list[Any] = []
    objects: list[_Object | None] = []
    for leaf, values in zip(leaves, attributes, strict=True):
        if values is None:
            flat.append(leaf)
            objects.append(None)
            continue
        parts, recipe = flatten(tuple(values.values()), levels - 1)
        flat += parts
        objects.append(_Object(type(leaf), tuple(values), recipe, len(parts)))
    return tuple(flat), _WithObjects(spec, tuple(objects))


def rebuild(leaves: Sequence[Any], recipe: Any) -> Any:
    """The inverse of `flatten`."""
    if recipe is None:
        return leaves[0]
    if recipe is tuple:
        return tuple(leaves)
    if not isinstance(recipe, _WithObjects):
        return pytree.tree_unflatten(list(leaves), recipe)
    rest = iter(leaves)
    parts = [next(rest) if part is None else _made(part, rest) for part in recipe.objects]
    return pytree.tree_unflatten(parts, recipe.spec)


def _fields_of(value: Any) -> Mapping[str, Any] | None:
    """Name -> value of an object that is nothing but its fields, else None."""
    attributes = None if isinstance(value, _LEAVES) else attributes_of(value)
    if attributes is None or type(value) is SimpleNamespace:
        return attributes
    plain = is_dataclass(value) and set(attributes) <= {field.name for field in fields(value)}
    return attributes if plain else None


def _made(part: _Object, leaves: Iterator[Any]) -> Any:
    values = rebuild([next(leaves) for _ in range(part.count)], part.recipe)
    fresh = part.kind.__new__(part.kind)
    for name, value in zip(part.names, values, strict=True):
        # Also of a frozen dataclass.
        object.__setattr__(fresh, name, value)
    return fresh


def unpredictable(leaves: Sequence[Any]) -> str:
    """Names the leaf of an output that can be neither predicted nor returned again; "" if there is none.

    Flags, integers and texts are returned again. A float is computed from tensors as a rule, and an object
    that is not taken apart may hold tensors of the call that made it.
    """
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            continue
        if isinstance(leaf, float | complex):
            return f"a {type(leaf).__name__} beside its tensors"
        if next(_data_within(leaf), None) is not None:
            return f"a {type(leaf).__name__}, which dcache cannot take apart"
    return ""


def _data_within(leaf: Any) -> Iterator[Any]:
    """Tensors, arrays and functions that an object leads to."""
    stack, seen = [leaf], set()
    numpy = sys.modules.get("numpy")
    arrays = () if numpy is None else (numpy.ndarray, numpy.generic)
    kinds = (torch.Tensor, *_FUNCTIONS, *arrays)
    while stack:
        value = stack.pop()
        if id(value) in seen or isinstance(value, PLAIN):
            continue
        seen.add(id(value))
        if isinstance(value, kinds):
            yield value
        elif isinstance(value, CONTAINERS):
            stack += value.values() if isinstance(value, dict) else value
        else:
            stack += (attributes_of(value) or {}).values()


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


def signature(
    args: Sequence[Any], kwargs: Mapping[str, Any], numbers: list[tuple[int | str, int]] | None = None
) -> Hashable:
    """A key that two calls have in common if they may share histories: shapes, dtypes, devices, flags.

    Of an object it is what `object_mark` reads: a cache of keys and values that is in another mode makes
    another call.

    Args:
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.
        numbers: gets the position or name and the value of every whole number, also of those in dicts. Which
            of them are flags the key cannot tell, so that it has none of their values.
    """
    marks: list[Hashable] = []
    items: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for key, value in items:
        if isinstance(value, torch.Tensor):
            marks.append((value.shape, value.dtype, value.device))
        elif isinstance(value, _FLAGS):
            marks.append(value)
        else:
            if numbers is not None and type(value) is int:
                numbers.append((key, value))
            marks.append(_mark(value, numbers))
    return (len(args), tuple(kwargs), tuple(marks))


def _mark(value: Any, numbers: list[tuple[int | str, int]] | None) -> Hashable:
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype, value.device
    if isinstance(value, _FLAGS):
        return value
    if isinstance(value, list | tuple):
        return tuple(value) if all(isinstance(item, int) for item in value) else signature(value, {}, None)
    if isinstance(value, dict):
        return signature((), value, numbers)
    # A timestep may be 1.0 now and 0 later.
    return ("object", "float") if isinstance(value, int | float) else object_mark(value)


def samples(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[torch.Tensor]:
    """The first argument that is a tensor, or a list or tuple of tensors alone (Z-Image's latents).

    One that is passed by a sample's name comes before all others: keywords may stand in any order.
    """
    named = [kwargs[name] for name in _SAMPLES if name in kwargs]
    for value in (*named, *args, *kwargs.values()):
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
    # A bound method, or one with a closure, may hold a module: these are not kept.
    plain = isinstance(forward, FunctionType) and forward.__closure__ is None
    return list((_parameters if plain else _parameters.__wrapped__)(forward))


@lru_cache(maxsize=1024)
def _parameters(forward: Any) -> tuple[inspect.Parameter, ...]:
    try:
        return tuple(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        return ()


def argument_names(forward: Any) -> list[str]:
    """Names of a forward's positional parameters; empty where its signature cannot be read."""
    parameters = parameters_of(forward)
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def named_arguments(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> value of all arguments of a call of a module whose names are known."""
    return {**dict(zip(argument_names(type(module).forward)[1:], args, strict=False)), **kwargs}


def same(a: Any, b: Any) -> tuple[float, bool]:
    """Largest relative L1 distance between two outputs' tensors, and whether their structures agree.

    Tensors of objects that cannot be taken apart are compared too.
    """
    left, right = _seen_in(a), _seen_in(b)
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


def _seen_in(output: Any) -> list[Any]:
    seen: list[Any] = []
    for leaf in flatten(output)[0]:
        seen.append(leaf)
        if not isinstance(leaf, torch.Tensor):
            seen += _data_within(leaf)
    return seen
