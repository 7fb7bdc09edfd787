"""What a module holds and what it draws from, as they were before a call, so that the call can be repeated.

The self-check makes the first call of each signature once more. A model that counts its calls, or draws
random numbers, must find what the call itself found, and must be left as the call left it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import IOBase
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from dcache.intercept.objects import PLAIN, attributes_of, put_back, refill
from dcache.intercept.own_state import NOT_ITS_OWN, own_attributes
from dcache.intercept.random_states import Draws, global_sources, is_random_source
from dcache.util.modules import modules_of

# Containers and objects within a module are looked into this deep, and arrays up to so many bytes are copied.
_LEVELS, _MOST_BYTES = 4, 2**20
_NO_STATE = (*PLAIN, torch.Tensor, nn.Module, type, FunctionType, MethodType, BuiltinFunctionType, IOBase)


class Snapshot:
    """The plain state of a module: attributes, containers, small numpy arrays, objects, random numbers.

    Tensors are put back by identity; `dcache.intercept.own_state` tells whether a call writes into them.

    Args:
        module: the module.
        devices: indices of the CUDA devices whose random numbers it may draw.

    Attributes:
        iterates: whether it holds an iterator, from which nothing that was taken can be put back.
    """

    def __init__(self, module: nn.Module, devices: Sequence[int] = ()) -> None:
        self.module, self.devices, self.iterates = module, devices, False
        self._after: Snapshot | None = None
        self._tables: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._objects: list[tuple[Any, dict[str, Any]]] = []
        self._arrays: list[tuple[Any, Any]] = []
        self._draws = [Draws(source) for source in global_sources()]
        self._torch = torch.get_rng_state()
        self._cuda = [torch.cuda.get_rng_state(i) for i in devices]
        seen = set[int]()
        for part in modules_of(module):
            own = own_attributes(part)
            self._tables.append((vars(part), own))
            if "_hf_hook" not in vars(part):
                self._tables.append((part._buffers, dict(part._buffers)))
            for value in own.values():
                if not isinstance(value, PLAIN):
                    self._visit(value, seen, _LEVELS, in_object=False)

    def restore(self) -> None:
        """Put everything back that is not as it was."""
        for table, before in self._tables:
            for key in table.keys() - before.keys() - NOT_ITS_OWN:
                del table[key]
            for key, value in before.items():
                if key not in table or table[key] is not value:
                    table[key] = value
        for container, before in self._containers:
            refill(container, before)
        for value, before in self._objects:
            now = attributes_of(value) or {}
            if len(now) != len(before) or any(now.get(name) is not item for name, item in before.items()):
                put_back(value, before)
        for array, copy in self._arrays:
            array[...] = copy
        for draws in self._draws:
            draws.restore()
        torch.set_rng_state(self._torch)
        for device, state in zip(self.devices, self._cuda, strict=True):
            torch.cuda.set_rng_state(state, device)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside this block the module is as it was; behind it, as it is now."""
        # The check may make several calls, each of which is left as the first one left it.
        self._after = self._after or Snapshot(self.module, self.devices)
        self.restore()
        try:
            yield
        finally:
            self._after.restore()

    def _visit(self, value: Any, seen: set[int], levels: int, in_object: bool) -> None:
        if isinstance(value, _NO_STATE) or id(value) in seen or type(value).__module__.startswith("dcache."):
            return
        seen.add(id(value))
        parts: Any = ()
        if is_random_source(value):
            self._draws.append(Draws(value))
        elif isinstance(value, Iterator):
            # Within an object of another library it is none that the module takes from.
            self.iterates = self.iterates or not in_object
        elif type(value).__module__ == "numpy" and hasattr(value, "nbytes"):
            if value.nbytes <= _MOST_BYTES and value.flags.writeable:
                self._arrays.append((value, value.copy()))
        elif isinstance(value, list | dict | set | deque):
            self._containers.append((value, value.copy()))
            parts = value.values() if isinstance(value, dict) else value
        elif isinstance(value, tuple):
            parts = value
        else:
            attributes = attributes_of(value)
            if attributes is not None:
                self._objects.append((value, dict(attributes)))
                parts, in_object = attributes.values(), True
        if levels:
            for part in list(parts):
                if not isinstance(part, PLAIN):
                    self._visit(part, seen, levels - 1, in_object)
