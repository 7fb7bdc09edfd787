"""A dictionary of bounded size, so that what is remembered for calls does not grow with their number."""

from __future__ import annotations

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(dict[Key, Value]):
    """A dictionary that throws its oldest keys away.

    >>> recent = Recent(2)
    >>> for i in range(3):
    ...     recent[i] = str(i)
    >>> recent
    {1: '1', 2: '2'}

    Args:
        limit: how many keys it holds at most.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __setitem__(self, key: Key, value: Value) -> None:
        """Set a key; a new one is the newest."""
        super().__setitem__(key, value)
        while len(self) > self.limit:
            self.pop(next(iter(self)), None)
