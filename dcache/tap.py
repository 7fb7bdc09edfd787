"""Instance-level interception: of a module's call, and of a method of any object.

A module is intercepted where `module(...)` is dispatched (`_compiled_call_impl`, the slot `nn.Module.compile`
uses): outside its `forward`, so that offloading hooks may replace and restore `forward` as they like, and
outside a compiled block, so that compiled frames stay as they are. torch drops that slot on copying and
pickling, so a copy of the module is a plain module.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch import nn

_SLOT = "_compiled_call_impl"


class Intercept:
    """Base of everything that stands in for the call of one module; subclasses define `__call__`."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.inner: Callable[..., Any] = module._call_impl
        self._previous: Callable[..., Any] | None = None

    def install(self) -> None:
        """Put this in front of the module's call; a compiled call found there stays inside."""
        found = self.module.__dict__.get(_SLOT)
        if isinstance(found, Intercept):
            raise RuntimeError(f"{type(self.module).__name__} is already intercepted")
        self._previous = found
        self.inner = found if found is not None else self.module._call_impl
        setattr(self.module, _SLOT, self)

    def remove(self) -> None:
        """Put back what was there before; a compiled call that somebody set in the meantime stays."""
        if self.module.__dict__.get(_SLOT) is self:
            if self._previous is None:
                delattr(self.module, _SLOT)
            else:
                setattr(self.module, _SLOT, self._previous)

    @property
    def previous(self) -> Any:
        """The compiled call that this stands in front of, or None."""
        return self._previous

    @property
    def displaced(self) -> bool:
        """Whether somebody else took the slot since (a `compile()` after `install`)."""
        return self.module.__dict__.get(_SLOT) is not self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the module's call."""
        return self.inner(*args, **kwargs)


def intercept_of(module: nn.Module) -> Intercept | None:
    """What intercepts this module's call, if anything of ours does."""
    found = module.__dict__.get(_SLOT)
    return found if isinstance(found, Intercept) else None


def compiled_inside(module: nn.Module) -> Any:
    """The compiled call somebody else put on this module, be it under our intercept, or None."""
    found = module.__dict__.get(_SLOT)
    return found.previous if isinstance(found, Intercept) else found


def compiled_call(module: nn.Module) -> Any:
    """The compiled call somebody else put on this module, or None."""
    found = module.__dict__.get(_SLOT)
    return None if isinstance(found, Intercept) else found


class MethodTap:
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
        self.around = around
        self.previous = vars(owner).get(name)
        self.original = getattr(owner, name)
        self.__wrapped__ = self.original
        self.__name__ = name
        self.__doc__ = self.original.__doc__

    def install(self) -> None:
        """Set this as the object's attribute."""
        setattr(self.owner, self.name, self)

    def remove(self) -> None:
        """Take it off again, unless somebody replaced it."""
        if vars(self.owner).get(self.name) is self:
            if self.previous is None:
                delattr(self.owner, self.name)
            else:
                setattr(self.owner, self.name, self.previous)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the method."""
        return self.around(self.original, self.owner, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A tap of the copied owner that tells the same listener."""
        copied = memo.get(id(self.owner))
        if copied is None:
            return self
        plain = types.MethodType(getattr(type(self.owner), self.name), copied)
        follows = getattr(getattr(self.around, "__self__", None), "follows_copies", None)
        if follows is None or not follows(memo):
            return plain
        twin = MethodTap.__new__(MethodTap)
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
