"""Interception of a method of any object."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any


class MethodIntercept:
    """Stands in for one bound method of one object and keeps its signature.

    A deep copy of the object has its plain method, or a tap of its own if the listener `follows_copies`.

    Args:
        owner: the object.
        name: the method's name.
        around: called as `around(original, owner, args, kwargs)`; returns the result.
    """

    def __init__(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        self.owner = owner
        self.name = name
        self.around: Callable[..., Any] | None = around
        self.previous = vars(owner).get(name)
        self.original = getattr(owner, name)
        self.__wrapped__ = self.original
        self.__name__ = name
        self.__doc__ = self.original.__doc__

    @property
    def listener(self) -> Any:
        """The object whose method is called around, None for a function or once the tap was removed."""
        return getattr(self.around, "__self__", None)

    def install(self) -> None:
        """Set this as the object's attribute."""
        setattr(self.owner, self.name, self)

    def remove(self) -> None:
        """Take it off again, unless it was replaced; whoever still holds it calls the plain method."""
        # The listener often holds what holds this: without the link both are freed at once.
        self.around = None
        if vars(self.owner).get(self.name) is self:
            if self.previous is None:
                delattr(self.owner, self.name)
            else:
                setattr(self.owner, self.name, self.previous)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the method."""
        if self.around is None:
            return self.original(*args, **kwargs)
        return self.around(self.original, self.owner, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """An intercept of the copied owner with the same listener."""
        copied = memo.get(id(self.owner))
        if copied is None:
            return self
        plain = types.MethodType(getattr(type(self.owner), self.name), copied)
        follows = getattr(self.listener, "follows_copies", None)
        if follows is None or not follows(memo):
            return plain
        twin = MethodIntercept.__new__(MethodIntercept)
        twin.__dict__.update(
            owner=copied,
            name=self.name,
            around=self.around,
            previous=None,
            original=plain,
            __wrapped__=plain,
            __name__=self.name,
            __doc__=self.__doc__,
        )
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the plain method of the owner."""
        return getattr, (self.owner, self.name)


def tap_on(owner: Any, name: str) -> MethodIntercept | None:
    """The tap that stands in for this method of this object, if there is one."""
    standing = getattr(owner, "__dict__", {}).get(name)
    return standing if isinstance(standing, MethodIntercept) else None


def listener_on(owner: Any, name: str) -> Any:
    """The listener of an object's intercepted method; None where it is not intercepted."""
    method_tap = tap_on(owner, name)
    return None if method_tap is None else method_tap.listener
