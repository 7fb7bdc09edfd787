"""Caching that is enabled on a module around the denoiser: a policy, or a wrapper that is never called.

A robot policy calls its denoiser directly (`policy.unet(x, t)`): caching lies on the denoiser, and
`OuterWatch` makes every chunk of actions a run of its own. Features of one observation are never carried to
the next, whatever way a chunk ended.

Where the module's own call may be the denoiser's, and a part runs where that did not, one warning says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from dcache.identity.denoisers import CHUNK_METHODS, hands_on, inner_denoiser, size_of
from dcache.identity.timestep import takes_time
from dcache.intercept.method import EntryPoint, MethodIntercept, listener_on
from dcache.intercept.module_call import ModuleIntercept

# A method that every module has: the watch is found there.
_ANCHOR = "compile"
# Calls of a part of a module whose denoiser cannot be told by its arguments, after which the module is taken
# for one that is never called itself.
_CALLS = 16

Reset = Callable[[nn.Module, bool, bool], None]


def watched_part(module: nn.Module) -> tuple[str, nn.Module, int] | None:
    """A part whose calls show that a module's own call never runs: path, part, calls that show it.

    That is what looks like its denoiser, or, of a module that takes no timestep, the largest part without
    parts: an encoder may be called before the module is, but not so often.
    """
    part = inner_denoiser(module)
    if part is not None:
        return *part, 1
    if takes_time(module) or hands_on(module):
        return None
    leaves = [(path, m) for path, m in module.named_modules() if path and not any(True for _ in m.children())]
    largest = max(leaves, key=lambda leaf: size_of(leaf[1]), default=None)
    return None if largest is None or not size_of(largest[1]) else (*largest, _CALLS)


class InnerDenoiserCall(ModuleIntercept):
    """The call of a wrapper's denoiser.

    Args:
        module: the denoiser.
        idle: whether the wrapper's own call was never seen.
        warn: called once, when the denoiser runs while `idle()`.
        calls: calls that it takes to be sure.
    """

    name = "inner denoiser"

    def __init__(
        self, module: nn.Module, idle: Callable[[], bool], warn: Callable[[], None], calls: int = 1
    ) -> None:
        super().__init__(module)
        self.idle = idle
        self.warn = warn
        self.calls = calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Look until it is known whether the wrapper is called, then leave."""
        inner, idle = self.inner, self.idle()
        self.calls -= 1
        if not idle or not self.calls:
            self.remove()
        if idle and not self.calls:
            self.warn()
        return inner(*args, **kwargs)


class OuterWatch:
    """Watches the methods of a policy that begin and end a chunk of actions; it lives in their places.

    Args:
        outer: the policy.
        part: its denoiser, another module.
        reset: ends the run of the denoiser; called with it, whether a chunk was made, and whether it failed.
    """

    def __init__(self, outer: nn.Module, part: nn.Module, reset: Reset) -> None:
        self.part = part
        self.reset = reset
        names = [name for name in (*CHUNK_METHODS, "reset") if callable(getattr(outer, name, None))]
        self.taps = [MethodIntercept(outer, name, self._chunk) for name in names]
        self.taps.append(MethodIntercept(outer, _ANCHOR, self._pass))

    def install(self) -> None:
        """Intercept the methods."""
        if isinstance(self.part, EntryPoint):
            self.part.install()
        for tap in self.taps:
            tap.install()

    def remove(self) -> None:
        """Give the policy its methods back."""
        for tap in reversed(self.taps):
            tap.remove()
        if isinstance(self.part, EntryPoint):
            self.part.remove()

    def _pass(self, original: Callable[..., Any], _owner: Any, args: Any, kwargs: Any) -> Any:
        return original(*args, **kwargs)

    def _chunk(self, original: Callable[..., Any], _owner: Any, args: Any, kwargs: Any) -> Any:
        """One call of the policy: what is left of the last chunk is over, and so is this one behind it."""
        self.reset(self.part, False, False)
        try:
            result = original(*args, **kwargs)
        except BaseException:
            self.reset(self.part, False, True)
            raise
        self.reset(self.part, original.__name__ not in ("select_action", "reset"), False)
        return result


def watch_of_outer(outer: nn.Module) -> OuterWatch | None:
    """The watch on a module whose denoiser is a part of it, if there is one."""
    watch = listener_on(outer, _ANCHOR)
    return watch if isinstance(watch, OuterWatch) else None


def watch_outer(outer: nn.Module, part: nn.Module, reset: Reset) -> None:
    """Watch a module on whose part caching is enabled, in place of what watched it before."""
    unwatch_outer(outer)
    if part is not outer:
        OuterWatch(outer, part, reset).install()


def unwatch_outer(outer: nn.Module) -> None:
    """Watch it no more."""
    watch = watch_of_outer(outer)
    if watch is not None:
        watch.remove()
