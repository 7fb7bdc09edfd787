"""The outermost intercept: the denoiser's own call, and the name diffusers gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from dcache.intercept.conflicts import NotInlined, being_compiled, compiled_whole
from dcache.intercept.module_call import Intercept

if TYPE_CHECKING:
    from dcache.engine.session import Session


class ModelCall(Intercept):
    """The denoiser's own call."""

    def __init__(self, module: nn.Module, session: Session) -> None:
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
        return self.session.denoise(self.inner, args, kwargs)


class NamedContext:
    """A cache context of diffusers that also tells the session its name."""

    def __init__(self, session: Session, context: Any, name: str) -> None:
        self.session, self.context, self.name = session, context, name
        self.before: str | None = None

    def __enter__(self) -> Any:
        self.before, self.session.names.context = self.session.names.context, self.name
        return self.context.__enter__()

    def __exit__(self, *error: Any) -> Any:
        self.session.names.context = self.before
        return self.context.__exit__(*error)
