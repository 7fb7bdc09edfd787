"""Registries of named objects: built-in ones, made on first use, and ones that users register."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any, Generic, TypeVar

from dcache.errors import DcacheError

T = TypeVar("T")


class Registry(Collection[str], Generic[T]):
    """Objects of one kind by name. As a collection it has the names, in order of registration.

    Args:
        kind: the kind of object, for messages: "planner".
        makers: name -> function that makes the object; called by each `get`.
    """

    def __init__(self, kind: str, makers: Mapping[str, Callable[[], T]] | None = None) -> None:
        self.kind = kind
        self._makers = dict(makers or {})

    def register(self, name: str, value: T) -> None:
        """Register an object by name.

        Raises:
            DcacheError: the name is taken.
        """
        if name in self._makers:
            raise DcacheError(f"a {self.kind} named {name!r} is registered already: choose another name")
        self._makers[name] = lambda: value

    def get(self, name: str) -> T:
        """The object of this name.

        Raises:
            DcacheError: the name is unknown.
        """
        if name not in self._makers:
            raise DcacheError(f"{self.kind} {name!r} is unknown: expected one of {', '.join(self)}")
        return self._makers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def modules(package: str, *names: str) -> dict[str, Callable[[], Any]]:
    """Module name -> function that imports that module of the package, for `Registry`."""
    return {name: partial(import_module, f"{package}.{name}") for name in names}
