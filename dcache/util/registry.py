"""Things that are known by name: the package's own, made when first used, and those that others register."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any, Generic, TypeVar

from dcache.errors import DcacheError

T = TypeVar("T")


class Registry(Collection[str], Generic[T]):
    """The names of things of one kind, in the order in which they became known; `get` has the things.

    Args:
        kind: what they are, for messages: "planner".
        makers: name -> what makes a thing when it is asked for.
    """

    def __init__(self, kind: str, makers: Mapping[str, Callable[[], T]] | None = None) -> None:
        self.kind = kind
        self._makers = dict(makers or {})

    def register(self, name: str, thing: T) -> None:
        """Make a thing known by name.

        Raises:
            DcacheError: another one has this name.
        """
        if name in self._makers:
            raise DcacheError(f"a {self.kind} named {name!r} is registered already: choose another name")
        self._makers[name] = lambda: thing

    def get(self, name: str) -> T:
        """The thing of this name.

        Raises:
            DcacheError: there is none.
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
    """Makers for modules of a package: each is imported when it is first used."""
    return {name: partial(import_module, f"{package}.{name}") for name in names}
