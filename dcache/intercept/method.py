"""Interception of a method of any object; a method as a module, where a loop calls it in place of one."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

from torch import nn

from dcache.errors import DcacheError


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


class EntryPoint(nn.Module):
    """Stands for one method of a module; calling it calls the method.

    Args:
        owner: the module.
        method: the method's name.

    Attributes:
        owner: the module, whose parts are those of the entry point.
        path: the method, for messages.
        intercept: stands in the method's place while caching is enabled, or None.
    """

    def __init__(self, owner: nn.Module, method: str) -> None:
        super().__init__()
        self.owner, self.method, self.training = owner, method, owner.training
        self.path = f"{type(owner).__name__}.{method}"
        self.intercept: MethodIntercept | None = None
        self.plain: Callable[..., Any] = getattr(owner, method)
        self._signature = inspect.signature(self.plain)

    def install(self) -> None:
        """Take the method's place."""
        if self.intercept is None:
            self.intercept = MethodIntercept(self.owner, self.method, self._called)
            self.plain = self.intercept.original
            self.intercept.install()

    def remove(self) -> None:
        """Give the owner its method back."""
        if self.intercept is not None:
            self.intercept.remove()
            self.intercept = None

    def _called(self, _original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        if owner is not self.owner:
            return _original(*args, **kwargs)
        bound = self._signature.bind(*args, **kwargs)
        if bound.args and any(p.kind is p.VAR_POSITIONAL for p in self._signature.parameters.values()):
            return self(*args, **kwargs)
        # By name, so that the sample is recognised wherever it stands.
        named = dict(bound.arguments)
        for parameter in self._signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                named |= named.pop(parameter.name, {})
        return self(**named)


def entry_point(root: nn.Module, path: str) -> EntryPoint:
    """The method at a path in a module, such as `model.denoise_step`, as a module that can be cached.

    Raises:
        DcacheError: there is no such method.
    """
    parents, _, method = path.rpartition(".")
    try:
        owner = root.get_submodule(parents)
    except AttributeError:
        owner = None
    function = getattr(type(owner), method, None)
    if not isinstance(owner, nn.Module) or not callable(function):
        raise DcacheError(
            f"call={path!r} must be the path of a method in {type(root).__name__}, such as "
            f"'model.denoise_step'; there is no such method"
        )

    def forward(self: EntryPoint, *args: Any, **kwargs: Any) -> Any:
        return self.plain(*args, **kwargs)

    # Where it has its timestep is read from the class.
    forward.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    kind = type(f"{type(owner).__name__}_{method}", (EntryPoint,), {"forward": forward})
    made: EntryPoint = kind(owner, method)
    return made
