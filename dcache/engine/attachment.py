"""`Attachment`: the intercepts on the denoiser module itself, of its call and of two methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from dcache.engine.model_call import Denoiser, ModelCall, NamedContext, model_call_of
from dcache.intercept.conflicts import compiled_whole, refuse_compiled
from dcache.intercept.method import MethodIntercept, listener_on


class Attachment:
    """Intercepts the denoiser's call, its `compile` and its `cache_context` on behalf of a session.

    Args:
        module: the denoiser.
        session: its session.
    """

    def __init__(self, module: nn.Module, session: Denoiser) -> None:
        self.module = module
        self.session = session
        self.call = ModelCall(module, session)
        self.methods: list[MethodIntercept] = []

    def install(self) -> None:
        """Install all intercepts."""
        self.call.install()
        self.methods = [MethodIntercept(self.module, "compile", self._compile)]
        if hasattr(type(self.module), "cache_context"):
            self.methods.append(MethodIntercept(self.module, "cache_context", self._cache_context))
        for method in self.methods:
            method.install()

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


def denoiser_of(module: nn.Module) -> Denoiser | None:
    """The session that handles a denoiser's calls; None if caching is not enabled on it."""
    model_call = model_call_of(module)
    if model_call is not None:
        return model_call.session
    # The slot of the call may have been overwritten, until the next run calls `verify`.
    owner = listener_on(module, "compile")
    return owner.session if isinstance(owner, Attachment) and owner.module is module else None
