"""Attributes of the objects among a call's arguments, read without running any of the objects' code."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Hashable, Mapping
from enum import Enum
from itertools import islice
from typing import Any

import torch
from torch import nn

PLAIN = (bool, int, float, str, type(None), Enum)
CONTAINERS = (list, tuple, dict, set, deque)
_FLAGS = (bool, int, str, type(None), Enum)
# Code, weights and random generators hold no keys and values of a call.
_CODE = (
    nn.Module,
    torch.Generator,
    type,
    types.ModuleType,
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
)
_NO_OBJECTS = (*PLAIN, *CONTAINERS, *_CODE, torch.Tensor)
# A signature is made in every call, so only the beginning of a large object belongs to it.
_ATTRIBUTES, _LEVELS = 32, 2


def attributes_of(value: Any) -> Mapping[str, Any] | None:
    """Attributes by name; None for plain values, tensors, containers, modules and functions."""
    if isinstance(value, _NO_OBJECTS):
        return None
    attributes: dict[str, Any] | None = getattr(value, "__dict__", None)
    return _slots_of(value) if attributes is None else attributes


def put_back(value: Any, before: Mapping[str, Any]) -> None:
    """Give an object the attributes that it had before, and no others."""
    for name in [name for name in attributes_of(value) or () if name not in before]:
        object.__delattr__(value, name)
    for name, item in before.items():
        object.__setattr__(value, name, item)


def refill(container: Any, before: Any) -> None:
    """Give a list, dict, set or deque the items that it had before, where it has others."""
    if isinstance(container, dict):
        same = list(container) == list(before) and all(container[key] is before[key] for key in before)
    elif isinstance(container, set):
        same = container == before
    else:
        same = len(container) == len(before) and all(a is b for a, b in zip(container, before, strict=True))
    if not same:
        container.clear()
        (container.update if isinstance(container, dict | set) else container.extend)(before)


def object_mark(value: Any, levels: int = _LEVELS) -> Hashable:
    """An object's part of a call's signature: its class, plain attributes, lengths of its containers.

    Of a container within it, only the first item is looked at: a cache has like parts for all layers.

    Args:
        value: the object.
        levels: how many objects deep to look.
    """
    attributes = attributes_of(value)
    if attributes is None:
        return "object", type(value).__qualname__
    marks: list[Hashable] = [type(value).__qualname__, len(attributes)]
    for name, item in islice(attributes.items(), _ATTRIBUTES):
        if isinstance(item, _FLAGS):
            marks.append((name, item))
        elif isinstance(item, CONTAINERS):
            marks.append((name, len(item)))
            part = next(iter(item.values() if isinstance(item, dict) else item), None)
            if levels and attributes_of(part) is not None:
                marks.append(object_mark(part, levels - 1))
        elif levels and attributes_of(item) is not None:
            marks.append((name, object_mark(item, levels - 1)))
    return tuple(marks)


def _slots_of(value: Any) -> dict[str, Any] | None:
    attributes: dict[str, Any] = {}
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                attributes[name] = getattr(value, name)
    return attributes or None
