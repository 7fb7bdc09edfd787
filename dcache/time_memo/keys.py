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

from dcache.identity.timestep import TimeArgument
from dcache.time_memo.arguments import tensors_of
from dcache.time_memo.recent import Recent

# Conditions of so few numbers a row (guidance, class, size) are compared by value, where the host has them.
_FEW = 16
# Timesteps of many runs with tables of their own.
_MANY_TIMES = 4096


class Content(NamedTuple):
    """What a small tensor holds.

    Attributes:
        dtype: its dtype.
        shape: its shape.
        data: its bytes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    data: bytes

    @property
    def uniform(self) -> bool:
        """Whether it has one value throughout."""
        size = self.dtype.itemsize
        return self.data == self.data[:size] * (len(self.data) // size)


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
        """What tells the outputs of a module with these sources, None where the timestep is not known."""
        known = self.keys.get(sources)
        if known is not None:
            return known
        parts: list[Hashable] = [self.plain]
        for source in sorted(sources):
            part = self.time if source == time_name else self.conditions.get(source)
            if part is None:
                return None
            parts.append(part)
        self.keys[sources] = key = tuple(parts)
        return key


class Clock:
    """Tells the timestep of a denoiser's call, without waiting for a GPU where the sampler knows it.

    Args:
        module: the denoiser.
        sampler: returns the pipeline's sampler, or None.

    Attributes:
        name: the timestep argument's name.
        waits: how often a timestep had to be read from a GPU.
    """

    def __init__(self, module: nn.Module, sampler: Callable[[], Any] = lambda: None) -> None:
        self.argument = TimeArgument(module)
        self.sampler = sampler
        self.waits = 0
        self.trusted = True
        self._table: tuple[weakref.ref[torch.Tensor], int, list[float]] | None = None
        self._meaning: Recent[Hashable, Content] = Recent(_MANY_TIMES)

    @property
    def name(self) -> str:
        """The timestep argument's name, "" where there is none."""
        return self.argument.name or ""

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Hashable | None:
        """The timestep of a call as a key; None without one."""
        value = self.argument.argument(args, kwargs)
        if not isinstance(value, torch.Tensor):
            return None if value is None else ("number", type(value), value)
        if not self.must_wait(value):
            return _content(value)
        step = self._by_sampler() if value.ndim <= 1 and self.trusted else None
        if step is None:
            return self.waited(value)
        key = (step, value.shape, value.dtype)
        # Pipelines scale timesteps in their own way: what an entry of the table stands for is read once.
        content = self._meaning.get(key)
        if content is None:
            content = self.waited(value)
            if not content.uniform:
                self.trusted = False
                return content
            self._meaning[key] = content
        return content

    def must_wait(self, value: torch.Tensor) -> bool:
        """Whether reading this tensor waits for a device."""
        return value.device.type != "cpu"

    def waited(self, value: torch.Tensor) -> Content:
        """What a tensor holds; counted where that waits for a device."""
        self.waits += self.must_wait(value)
        return _content(value)

    def _by_sampler(self) -> tuple[str, float] | None:
        """Class name of the sampler, and the entry of its table that it stands at."""
        sampler = self.sampler()
        table, index = getattr(sampler, "timesteps", None), getattr(sampler, "step_index", None)
        if not isinstance(table, torch.Tensor) or not isinstance(index, int) or not 0 <= index < len(table):
            return None
        if table.is_inference():
            # Writes to it are not counted.
            return None
        known = self._table
        if known is None or known[0]() is not table or known[1] != table._version:
            known = self._table = (weakref.ref(table), table._version, table.tolist())
        return type(sampler).__name__, known[2][index]


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
            return _content(tensor)
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


def _content(value: torch.Tensor) -> Content:
    """What a tensor holds, as a key; waits for its device."""
    data = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return Content(value.dtype, tuple(value.shape), bytes(data.reshape(-1).view(torch.uint8).numpy()))
