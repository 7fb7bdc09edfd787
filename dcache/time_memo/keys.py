"""What tells the calls of a denoiser apart for its timed modules: timestep and conditions."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import nn

from dcache.time_memo.arguments import tensors_of
from dcache.time_memo.clock import Clock, content_of

# Conditions of so few numbers a row (guidance, class, size) are compared by value, where the host has them.
_FEW = 16


class Identity(NamedTuple):
    """A tensor as it is now.

    Attributes:
        number: a number that no other tensor has had.
        version: how often it was written to.
        shape: its shape.
        dtype: its dtype.
    """

    number: int
    version: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class Identities:
    """Numbers for tensors: one for as long as a tensor lives and is not written to.

    Attributes:
        dead: numbers of tensors that are gone; what is kept under them can be thrown away.
    """

    def __init__(self) -> None:
        self.dead: deque[int] = deque()
        self._numbers: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}
        self._next = count()

    def of(self, tensor: torch.Tensor) -> Identity:
        """The tensor as it is now."""
        known = self._numbers.get(id(tensor))
        if known is None or known[0]() is not tensor:
            number = next(self._next)
            reference = weakref.ref(tensor, self._forget(id(tensor), number))
            known = self._numbers[id(tensor)] = (reference, number)
        return Identity(known[1], version_of(tensor), tuple(tensor.shape), tensor.dtype)

    def _forget(self, address: int, number: int) -> Callable[[Any], None]:
        numbers, dead = self._numbers, self.dead

        def gone(_reference: Any) -> None:
            dead.append(number)
            known = numbers.get(address)
            if known is not None and known[1] == number:
                del numbers[address]

        return gone


@dataclass
class Moment:
    """One call of the denoiser, as its timed modules need to know it.

    Attributes:
        time: the timestep, or None where it cannot be told.
        conditions: name of another argument -> what tells its content.
        plain: everything else that a call may depend on: flags, autocast.
        called: modules that were called in it.
        keys: sources -> their key, once it was made.
    """

    time: Hashable | None
    conditions: Mapping[str, Hashable]
    plain: Hashable
    called: set[int] = field(default_factory=set)
    keys: dict[frozenset[str], Hashable] = field(default_factory=dict)

    def key(self, sources: frozenset[str], time_name: str) -> Hashable | None:
        """What tells the outputs of a module with these sources, None where the timestep is not known.

        Returns:
            (everything plain, the timestep or None where it is no source, content of each other source).
        """
        known = self.keys.get(sources)
        if known is not None:
            return known
        if time_name in sources and self.time is None:
            return None
        parts: list[Hashable] = [self.plain, self.time if time_name in sources else None]
        for source in sorted(sources - {time_name}):
            part = self.conditions.get(source)
            if part is None:
                return None
            parts.append(part)
        self.keys[sources] = key = tuple(parts)
        return key


class Moments:
    """Makes the `Moment` of each call of one denoiser.

    Args:
        module: the denoiser.
        clock: tells its timesteps.

    Attributes:
        identities: numbers of the conditions' tensors.
    """

    def __init__(self, module: nn.Module, clock: Clock) -> None:
        self.module, self.clock = module, clock
        self.identities = Identities()

    def of(self, args: Sequence[Any], kwargs: Mapping[str, Any], sources: frozenset[str]) -> Moment:
        """The moment of a call.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            sources: arguments that timed modules depend on.
        """
        named = tensors_of(self.module, args, kwargs)
        conditions = {
            name: self._condition(tensor)
            for name, tensor in named.items()
            if name in sources and name != self.clock.name
        }
        flags = tuple(_flags((args, kwargs)))
        autocast = tuple(
            torch.get_autocast_dtype(kind) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)
        )
        return Moment(self.clock.read(args, kwargs), conditions, (flags, autocast))

    def _condition(self, tensor: torch.Tensor) -> Hashable:
        rows = len(tensor) if tensor.ndim > 1 else 1
        if not self.clock.must_wait(tensor) and tensor.numel() <= _FEW * rows:
            return content_of(tensor)
        if tensor.is_inference():
            # Writes to it are not counted, so identity says nothing.
            return self.clock.waited(tensor)
        return self.identities.of(tensor)


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor was written to; 0 for inference tensors, whose writes torch does not count."""
    return 0 if tensor.is_inference() else tensor._version


def _flags(value: Any) -> Iterator[Hashable]:
    """The values in nested arguments that are no tensors, with their names and types."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            for flag in _flags(item):
                yield name, flag
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            for flag in _flags(item):
                yield i, flag
    elif isinstance(value, bool | int | float | str | torch.dtype):
        yield type(value), value


def numbers_in(key: Hashable) -> set[int]:
    """The numbers of `Identities` that a key holds."""
    if isinstance(key, Identity):
        return {key.number}
    return set[int]().union(*(numbers_in(part) for part in key)) if isinstance(key, tuple) else set()
