"""`Attachment`: the intercepts on the denoiser module itself, of its call and of two methods."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from dcache.engine.inner_denoiser import InnerDenoiserCall, watched_part
from dcache.engine.model_call import Denoiser, ModelCall, NamedContext, model_call_of
from dcache.engine.run_state import RunState
from dcache.intercept.conflicts import compiled_whole, refuse_compiled
from dcache.intercept.method import EntryPoint, MethodIntercept, listener_on

if TYPE_CHECKING:
    from dcache.intercept.limits import ByteLimit


class Attached(Denoiser, Protocol):
    """A session.

    Attributes:
        state: the run under way, or the last one.
    """

    state: RunState

    def warn(self, text: str) -> None:
        """Warn once per session and text."""
        ...


class Attachment:
    """Intercepts the denoiser's call, its `compile` and its `cache_context` on behalf of a session.

    Args:
        module: the denoiser.
        session: its session.
    """

    def __init__(self, module: nn.Module, session: Attached) -> None:
        self.module = module
        self.session = session
        self.call = ModelCall(module, session)
        self.methods: list[MethodIntercept] = []
        self.forward: MethodIntercept | None = None
        self.inner: InnerDenoiserCall | None = None

    def install(self, limit: ByteLimit | None) -> None:
        """Install all intercepts; `limit` is that of the bytes held."""
        self.call.limit = limit
        self.call.install()
        self.methods = [MethodIntercept(self.module, "compile", self._compile)]
        if hasattr(type(self.module), "cache_context"):
            self.methods.append(MethodIntercept(self.module, "cache_context", self._cache_context))
        for method in self.methods:
            method.install()
        if not isinstance(self.module, EntryPoint):
            self.forward = MethodIntercept(self.module, "forward", self._forward)
            self.forward.install()
        part = watched_part(self.module)
        if part is not None:
            path, denoiser, calls = part
            warn = partial(self._warn_of_idle, path, denoiser)
            self.inner = InnerDenoiserCall(denoiser, self.idle, warn, calls)
            self.inner.install()

    def verify(self) -> None:
        """Install the intercept of the module's call again if its slot was overwritten.

        Raises:
            DcacheError: the whole model was compiled.
        """
        if self.call.displaced:
            refuse_compiled(self.module)
            self.call.install()

    def remove(self) -> None:
        """Remove all intercepts."""
        self.call.remove()
        for method in self.methods:
            method.remove()
        self.methods = []
        self.trust_forward()
        if self.inner is not None:
            self.inner.remove()
            self.inner = None

    def trust_forward(self) -> None:
        """Watch no more for calls of `forward` past the module's own call: the first one tells."""
        if self.forward is not None:
            self.forward.remove()
            self.forward = None

    def _forward(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        if owner is self.module:
            name = type(owner).__name__
            self.trust_forward()
            if not _called_as_module(owner):
                self.session.warn(
                    f"caching is enabled on {name}, and the loop calls {name}.forward past the module's own "
                    "call, so nothing is cached. Name the method: dcache.enable(module, ..., call='forward')."
                )
        return original(*args, **kwargs)

    def idle(self) -> bool:
        """Whether no call of the module itself was seen."""
        state = self.session.state
        return state.run is None and not state.record.steps and not state.record.reasons

    def _warn_of_idle(self, path: str, denoiser: nn.Module) -> None:
        outer = type(self.module).__name__
        self.session.warn(
            f"caching is enabled on {outer}, and its part {path} ({type(denoiser).__name__}) was called "
            f"where {outer} itself was not, so nothing is cached. Enable caching on the part that the loop "
            f"calls instead, as in dcache.enable(module.{path}), or name a method: call='METHOD'."
        )

    def _compile(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        if owner is self.module:
            raise compiled_whole(self.module)
        return original(*args, **kwargs)

    def _cache_context(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        context = original(*args, **kwargs)
        if owner is not self.module:
            return context
        name = args[0] if args else kwargs.get("name")
        return NamedContext(self.session, context, str(name))


def _called_as_module(module: nn.Module) -> bool:
    """Whether the code under way was called by a module's own call."""
    frame: FrameType | None = sys._getframe(1)
    calls = (nn.Module._wrapped_call_impl.__code__, nn.Module._call_impl.__code__)
    while frame is not None:
        if frame.f_code in calls and frame.f_locals["self"] is module:
            return True
        frame = frame.f_back
    return False


def denoiser_of(module: nn.Module) -> Denoiser | None:
    """The session that handles a denoiser's calls; None if caching is not enabled on it."""
    model_call = model_call_of(module)
    if model_call is not None:
        return model_call.session
    # The slot of the call may have been overwritten, until the next run calls `verify`.
    owner = listener_on(module, "compile")
    return owner.session if isinstance(owner, Attachment) and owner.module is module else None
