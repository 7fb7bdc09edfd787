"""Interception of a module's call.

A module is intercepted where `module(...)` is dispatched (`_compiled_call_impl`, the slot `nn.Module.compile`
uses): outside its `forward`, so that offloading hooks may replace and restore `forward` as they like, and
outside a compiled block, so that compiled frames stay as they are. torch drops that slot on copying and
pickling, so a copy of the module is a plain module.
"""

from __future__ import annotations

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
