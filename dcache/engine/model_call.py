"""The outermost intercept: the denoiser's own call, and the name diffusers gives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

from torch import nn
from torch.utils.hooks import RemovableHandle

from dcache.intercept.conflicts import NotInlined, being_compiled, compiled_whole
from dcache.intercept.module_call import ModuleIntercept, intercepts_of


class AroundCall(Protocol):
    """Interface: wraps the denoiser's call, as `engine.observe.Observer` does."""

    def around_call(self, denoise: Callable[[], Any]) -> Any:
        """Call `denoise` and return what it does."""
        ...


class Threads(Protocol):
    """Interface: the state of each thread, as `engine.lanes.Lanes` has it.

    Attributes:
        lock: held during a call.
        own: has, as `lane`, the part of the thread that looks.
        active: the part that is in use.
    """

    lock: AbstractContextManager[Any]
    own: Any
    active: Any

    def switch(self) -> None:
        """Activate the part of this thread."""
        ...

    def here(self) -> AbstractContextManager[None]:
        """Hold the lock, with the part of this thread active."""
        ...


class Denoiser(Protocol):
    """Interface: computes or predicts the denoiser's call, as a session does.

    Attributes:
        context: name of the guidance branch that the next calls are for, None where the ordinal tells.
        observers: who watches.
        removed: whether caching was taken off.
    """

    context: str | None
    removed: bool

    @property
    def lanes(self) -> Threads:
        """The state of each thread."""
        ...

    @property
    def observers(self) -> list[Any]:
        """Who watches the denoiser."""
        ...

    def denoise(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The denoiser's call; `inner` is its own."""
        ...


class ModelCall(ModuleIntercept):
    """The denoiser's own call."""

    name = "denoiser"

    def __init__(self, module: nn.Module, session: Denoiser) -> None:
        super().__init__(module)
        self.session = session
        self._hook: RemovableHandle | None = None

    def install(self) -> None:
        """As any intercept, and not to be inlined by a compiled caller."""
        super().install()
        if self._hook is None:
            self._hook = self.module.register_forward_pre_hook(NotInlined())

    def remove(self) -> None:
        """As any intercept."""
        super().remove()
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Hand over to the session."""
        if being_compiled():
            raise compiled_whole(self.module)
        session = self.session
        lanes = session.lanes
        # Not `lanes.here()`, here and below: a predicted step has few Python calls to spare.
        with lanes.lock:
            if session.removed:
                # Taken off by another thread, while this one waited.
                return self.inner(*args, **kwargs)
            if lanes.own.lane is not lanes.active:
                lanes.switch()
            if session.observers:
                return _observed(session.observers, partial(session.denoise, self.inner, args, kwargs))
            return session.denoise(self.inner, args, kwargs)


def _observed(observers: Sequence[AroundCall], denoise: Callable[[], Any]) -> Any:
    for observer in tuple(observers):
        denoise = partial(observer.around_call, denoise)
    return denoise()


def model_call_of(module: nn.Module) -> ModelCall | None:
    """The intercept of a denoiser's own call, where caching is enabled on it."""
    return next((link for link in intercepts_of(module) if isinstance(link, ModelCall)), None)


class NamedContext:
    """A cache context of diffusers whose name is also the name of the guidance branch."""

    def __init__(self, session: Denoiser, context: Any, name: str) -> None:
        self.session, self.context, self.name = session, context, name
        self.before: str | None = None

    def __enter__(self) -> Any:
        session, lanes = self.session, self.session.lanes
        # Without a function of our own, as in `ModelCall`.
        with lanes.lock:
            if lanes.own.lane is not lanes.active:
                lanes.switch()
            self.before, session.context = session.context, self.name
        return self.context.__enter__()

    def __exit__(self, *error: Any) -> Any:
        session, lanes = self.session, self.session.lanes
        with lanes.lock:
            if lanes.own.lane is not lanes.active:
                lanes.switch()
            session.context = self.before
        return self.context.__exit__(*error)
