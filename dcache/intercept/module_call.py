"""Interception of a module's call.

A module is intercepted where `module(...)` is dispatched (`_compiled_call_impl`, the slot `nn.Module.compile`
uses): outside its `forward`, so that offloading hooks may replace and restore `forward` as they like, and
outside a compiled block, so that compiled frames stay as they are. torch drops that slot on copying and
pickling, so a copy of the module is a plain module.

Several intercepts of one module form a chain: the one that was installed last is called first. Each can be
removed at any time, whatever stands in front of it or behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from dcache.intercept.limits import ByteLimit

_SLOT = "_compiled_call_impl"


class ModuleIntercept:
    """Base of everything that stands in for the call of one module; subclasses define `__call__`.

    Attributes:
        name: what it is there for, to tell the intercepts of one module apart.
        module: the module.
        inner: what it stands in front of: the next intercept, a compiled call, or the module's own call.
        limit: of the bytes that are kept for the module, None without one.
    """

    name = "plain"
    limit: ByteLimit | None = None

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.inner: Callable[..., Any] = module._call_impl
        self._previous: Callable[..., Any] | None = None

    def install(self) -> None:
        """Stand in front of the module's call, and of every intercept that it has."""
        self._previous = self.module.__dict__.get(_SLOT)
        self.inner = self.module._call_impl if self._previous is None else self._previous
        setattr(self.module, _SLOT, self)

    def install_behind(self) -> None:
        """Stand behind every intercept that the module has, right in front of its own call."""
        chain = intercepts_of(self.module)
        if not chain:
            self.install()
            return
        last = chain[-1]
        self._previous, self.inner = last._previous, last.inner
        last._previous = last.inner = self

    def remove(self) -> None:
        """Leave the chain; a compiled call that was set in front of it in the meantime stays."""
        in_front = self.module.__dict__.get(_SLOT)
        if in_front is self:
            if self._previous is None:
                delattr(self.module, _SLOT)
            else:
                setattr(self.module, _SLOT, self._previous)
            return
        for outer in intercepts_of(self.module):
            if outer._previous is self:
                outer._previous = self._previous
                outer.inner = self.module._call_impl if self._previous is None else self._previous

    @property
    def previous(self) -> Any:
        """The intercept or the compiled call that this one stands in front of, or None."""
        return self._previous

    @property
    def displaced(self) -> bool:
        """Whether the slot was taken since, as by a `compile()` after `install`."""
        return self not in intercepts_of(self.module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the module's call."""
        return self.inner(*args, **kwargs)


def intercepts_of(module: nn.Module) -> list[ModuleIntercept]:
    """The intercepts of a module's call, the one that is called first in front."""
    chain: list[ModuleIntercept] = []
    link = module.__dict__.get(_SLOT)
    while isinstance(link, ModuleIntercept):
        chain.append(link)
        link = link.previous
    return chain


def limit_of(module: nn.Module) -> ByteLimit | None:
    """The limit of the bytes that are kept for a module, None without one."""
    return next((link.limit for link in intercepts_of(module) if link.limit is not None), None)


def compiled_inside(module: nn.Module) -> Any:
    """The compiled call of a module, also behind its intercepts; None if it is not compiled."""
    link = module.__dict__.get(_SLOT)
    while isinstance(link, ModuleIntercept):
        link = link.previous
    return link


def compiled_call(module: nn.Module) -> Any:
    """The compiled call of a module that no intercept stands in front of, or None."""
    link = module.__dict__.get(_SLOT)
    return None if isinstance(link, ModuleIntercept) else link
