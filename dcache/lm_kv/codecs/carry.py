"""What layers of a running forward hand on to the next one, so that sums over layers are formed once."""

from __future__ import annotations

from typing import Any

import torch


class Carry:
    """Tensors by the object that they are of; nothing is held while no forward runs.

    >>> carry, of = Carry(), object()
    >>> carry.open()
    >>> carry.put(of, torch.ones(2), None)
    >>> carry.get(of)
    tensor([1., 1.])
    >>> carry.close()
    >>> carry.get(of) is None
    True
    """

    def __init__(self) -> None:
        self._open = False
        # With the object: while it is here, no other one has its id.
        self._held: dict[int, tuple[Any, torch.Tensor]] = {}

    def open(self) -> None:
        """A forward begins."""
        self._open = True

    def close(self) -> None:
        """It ended."""
        self._open = False
        self._held.clear()

    def get(self, of: Any) -> torch.Tensor | None:
        """The tensor of an object; None where none is held."""
        found = self._held.get(id(of))
        return None if found is None else found[1]

    def put(self, of: Any, tensor: torch.Tensor, instead: Any) -> None:
        """Hold the tensor of an object in place of that of another one, which is needed no longer."""
        if self._open:
            self._held.pop(id(instead), None)
            self._held[id(of)] = (of, tensor)
