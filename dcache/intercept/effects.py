"""What a call of a module writes into its arguments: keys and values of causal video, of reference images.

A pipeline may call the denoiser for this alone. Such a call must run, and must run once: predicted, it would
write nothing; replayed, it might append twice.
"""

from __future__ import annotations

import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch

from dcache.intercept.objects import PLAIN, attributes_of, put_back, refill
from dcache.intercept.pytree import copy_containers, gpus, samples
from dcache.intercept.random_states import Draws, is_random_source

if TYPE_CHECKING:
    import numpy as np

# Layers times the parts of each; a walk over more would take as long as the call.
_MOST_PARTS = 10_000
# Bytes up to which contents are looked at: larger tensors are known by version and shape.
_MOST_BYTES = 2**24
_FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType, partial)


class Effects:
    """The arguments of one call as they were before it, to tell afterwards what the call wrote into them.

    These count: another version, shape or content of a tensor or array that can be reached from the
    arguments; a list, dict, set or deque that grew or whose items were replaced; an attribute that was set.
    These do not: the sample, an item that was taken out, and entries of a dict of plain values alone, for a
    model may complete the flags that it was given. An empty dict that is filled counts: it was made to be
    filled. What a function does that is passed cannot be seen, nor what is taken from an iterator, so a call
    with one is taken for a write. So is one that draws from a generator that is passed.

    Args:
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.

    Attributes:
        complete: False where the arguments have too many parts to watch.
        calls_back: whether a function, a method or a partial is among the arguments.
        iterates: whether an iterator is among them, from which nothing that was taken can be put back.
    """

    def __init__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.complete, self.calls_back, self.iterates = True, False, False
        self._draws: list[Draws] = []
        self._tensors: list[tuple[torch.Tensor, object]] = []
        self._arrays: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._objects: list[tuple[Any, dict[str, Any]]] = []
        self._walk([*args, *kwargs.values()], {id(tensor) for tensor in samples(args, kwargs)})

    def written(self) -> bool:
        """True if the call wrote into its arguments, or has too many of them to know."""
        return (
            not self.complete
            or self.calls_back
            or self.iterates
            or any(draws.moved() for draws in self._draws)
            or any(_checksum(array) != checksum for array, _, checksum in self._arrays)
            or any(state_of(tensor) != state for tensor, state in self._tensors)
            or any(_differs(container, before) for container, before in self._containers)
            or any(_has_new(before, attributes_of(value) or {}) for value, before in self._objects)
        )

    def restore(self) -> None:
        """Put containers, attributes and arrays back; tensors that were written into stay so."""
        for array, copy, checksum in self._arrays:
            if _checksum(array) != checksum:
                array[...] = copy
        for container, before in self._containers:
            refill(container, before)
        for value, before in self._objects:
            if _has_new(before, attributes_of(value) or {}):
                put_back(value, before)
        for draws in self._draws:
            draws.restore()

    def _walk(self, stack: list[Any], seen: set[int]) -> None:
        # Every part once, by its identity: caches refer to each other, and to themselves.
        while stack:
            value = stack.pop()
            if isinstance(value, PLAIN) or id(value) in seen:
                continue
            seen.add(id(value))
            if len(seen) > _MOST_PARTS:
                self.complete = False
                return
            if isinstance(value, torch.Tensor):
                self._tensors.append((value, state_of(value)))
            elif _is_array(value):
                self._arrays.append((value, value.copy(), _checksum(value)))
            elif isinstance(value, (*_FUNCTIONS, Iterator)):
                self.iterates = self.iterates or isinstance(value, Iterator)
                self.calls_back = self.calls_back or not isinstance(value, Iterator)
            elif is_random_source(value):
                self._draws.append(Draws(value))
            elif isinstance(value, dict):
                self._containers.append((value, dict(value)))
                stack += value.values()
            elif isinstance(value, list | set | deque):
                self._containers.append((value, value.copy()))
                stack += value
            elif isinstance(value, tuple):
                stack += value
            else:
                attributes = attributes_of(value)
                if attributes is not None:
                    self._objects.append((value, dict(attributes)))
                    # An object may have functions as parts for its own use.
                    stack += [item for item in attributes.values() if not isinstance(item, _FUNCTIONS)]


@contextmanager
def undone(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Callable[[], bool]]:
    """Inside this block a module may be called once more with these arguments, which are restored behind it.

    Yields:
        Whether the call wrote into them; to be asked inside the block.
    """
    effects = Effects(args, kwargs)
    try:
        yield effects.written
    finally:
        effects.restore()


@contextmanager
def once_more(arguments: Any) -> Iterator[tuple[Any, Any, Callable[[], bool]]]:
    """Inside this block a module may be called once more, on what an earlier call was given.

    The arguments are restored behind it, and so are torch's random numbers.

    Args:
        arguments: (args, kwargs) as they were before the earlier call.

    Yields:
        args and kwargs in fresh containers, for some forwards pop from them; and what `undone` yields.
    """
    args, kwargs = copy_containers(arguments[0]), copy_containers(arguments[1])
    with torch.random.fork_rng(gpus(*arguments)), undone(args, kwargs) as written:
        yield args, kwargs, written


def state_of(tensor: torch.Tensor, most_bytes: int = _MOST_BYTES) -> tuple[object, ...]:
    """Shape, version and sums over the bytes of a tensor: what a write changes, one through `.data` too.

    Args:
        tensor: the tensor.
        most_bytes: larger ones are known by shape and version alone, unless they have no version.
    """
    if tensor.device.type == "meta":
        return (tensor.shape,)
    version = None if tensor.is_inference() else tensor._version
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    small = version is None or tensor.numel() * tensor.element_size() <= most_bytes
    if not plain or tensor.is_quantized or not small:
        return tensor.shape, version
    flat = tensor.detach().resolve_conj().reshape(-1)
    # What was expanded from one element has no stride to view it by.
    flat = flat if flat.stride() == (1,) else flat.clone(memory_format=torch.contiguous_format)
    content = flat.view(torch.uint8)
    # Of all bytes, and of some, so that values that change places are noticed.
    sums = [content[::stride].sum(dtype=torch.int64) for stride in (1, 2, 7)]
    return tensor.shape, version, *torch.stack(sums).tolist()


def _is_array(value: Any) -> bool:
    # Without an import: who has an array has imported numpy.
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _checksum(array: np.ndarray[Any, Any]) -> int:
    # Of objects this is their identity.
    return zlib.crc32(array.tobytes())


def _differs(now: Any, before: Any) -> bool:
    if isinstance(now, dict):
        flags = bool(before) and all(isinstance(item, PLAIN) for item in (*before.values(), *now.values()))
        return not flags and _has_new(before, now)
    if isinstance(now, set):
        return not now <= before
    if len(now) >= len(before):
        # A ring that is full drops an item for each that it is given.
        return len(now) > len(before) or not all(map(_same, before, now))
    left = {id(item) for item in before}
    return any(id(item) not in left for item in now)


def _has_new(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return any(name not in before or not _same(before[name], item) for name, item in now.items())


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, PLAIN) and type(a) is type(b) and a == b)
