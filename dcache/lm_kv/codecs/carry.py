"""What layers of a running forward hand on to the next one, so that sums over layers are formed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class _Held:
    """Tensors by the id of the object that they are of, beside it: while it is here, no other has its id."""

    def __init__(self) -> None:
        self.open = False
        self.tensors: dict[int, tuple[Any, torch.Tensor]] = {}


class Carry:
    """Tensors by the object that they are of; nothing is held but while layers run or are encoded.

    Attributes:
        encoded: place of the cache's layer that was encoded last, and what it was encoded as; None for none.

    >>> carry, of = Carry(), object()
    >>> carry.open()
    >>> carry.put(of, torch.ones(2), None)
    >>> carry.get(of)
    tensor([1., 1.])
    >>> carry.close()
    >>> carry.get(of) is None
    True
    """

    encoded: tuple[int, Any] | None

    def __init__(self) -> None:
        self.encoded = None
        self._held = _Held()

    def fork(self) -> Carry:
        """For a fork of a cache, whose layers were encoded by the first one's codecs: tensors are common."""
        other = Carry()
        other._held = self._held
        return other

    def open(self) -> None:
        """A forward begins."""
        self._held.open = True

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Open while layers are encoded between two forwards."""
        self.open()
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """It ended."""
        self._held.open, self.encoded = False, None
        self._held.tensors.clear()

    def get(self, of: Any) -> torch.Tensor | None:
        """The tensor of an object; None where none is held."""
        found = self._held.tensors.get(id(of))
        return None if found is None else found[1]

    def put(self, of: Any, tensor: torch.Tensor, instead: Any) -> None:
        """Hold the tensor of an object in place of that of another one, which is needed no longer."""
        if self._held.open:
            self._held.tensors.pop(id(instead), None)
            self._held.tensors[id(of)] = (of, tensor)
