"""`Kept`: results in memory, the newest ones within a limit of bytes and of number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by key; the oldest are dropped where there are too many, and the newest stays.

    >>> kept = Kept(most=9, bytes_limit=5, size=len)
    >>> for word in ("one", "two", "a"):
    ...     kept.put(word, word)
    >>> kept.values()
    ['two', 'a']

    Args:
        most: values at most.
        bytes_limit: bytes of all of them at most.
        size: gives the bytes of one.
    """

    def __init__(self, most: int, bytes_limit: int, size: Callable[[T], int]) -> None:
        self.most, self.bytes_limit, self.size = most, bytes_limit, size
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def put(self, key: Hashable, value: T) -> None:
        """Keep a value as the newest one."""
        self.drop(key)
        self._values[key] = value
        while len(self._values) > 1 and (len(self._values) > self.most or self.bytes() > self.bytes_limit):
            self._values.popitem(last=False)

    def get(self, key: Hashable) -> T | None:
        """The value; None if it was never kept, or dropped."""
        return self._values.get(key)

    def drop(self, key: Hashable) -> None:
        """Keep a value no longer, if it is kept."""
        self._values.pop(key, None)

    def values(self) -> list[T]:
        """All values, the oldest first."""
        return list(self._values.values())

    def keys(self) -> list[Hashable]:
        """Their keys, in the same order."""
        return list(self._values)

    def bytes(self) -> int:
        """Bytes of all values."""
        return sum(map(self.size, self._values.values()))
