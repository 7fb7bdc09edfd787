"""What dcache watches of a pipeline: the end of its call, and denoisers that are swapped between runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dcache.tap import MethodTap

if TYPE_CHECKING:
    from dcache.session import Session

_END = "maybe_free_model_hooks"


class PipeWatch:
    """Belongs to one pipeline; lives in its attribute of the method that ends every pipeline call."""

    def __init__(self, pipe: Any, sessions: list[Session]) -> None:
        self.pipe = pipe
        self.sessions = sessions
        self.tap = MethodTap(pipe, _END, self._end) if callable(getattr(pipe, _END, None)) else None
        if self.tap is not None:
            self.tap.install()

    def remove(self) -> None:
        """Take the watch off."""
        if self.tap is not None:
            self.tap.remove()

    def _end(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        if owner is self.pipe:
            for session in self.sessions:
                session.end_run()
                for found in session.taps:
                    found.close()
        return original(*args, **kwargs)


def watch_of(pipe: Any) -> PipeWatch | None:
    """The watch on this pipeline, if there is one."""
    found = getattr(pipe, "__dict__", {}).get(_END)
    owner = getattr(found.around, "__self__", None) if isinstance(found, MethodTap) else None
    return owner if isinstance(owner, PipeWatch) and owner.pipe is pipe else None
