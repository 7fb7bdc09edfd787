"""A first call computed once more, where a budget left no room to remember it as it was."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from dcache.engine.binding import Binding
from dcache.engine.call import Call
from dcache.engine.observe import unobserved
from dcache.engine.run_state import RunState
from dcache.method import Method

# A call, the denoiser's own call, and (args, kwargs) as they were before.
FirstCall = tuple[Call, Callable[..., Any], Any]


class Remembering(Protocol):
    """Interface: the part of a session that its memory reads and changes."""

    module: nn.Module
    method: Method
    requested: Method
    call: Call | None
    state: RunState
    binding: Binding
    verified: set[Hashable]
    removed: bool

    def free(self) -> None:
        """Drop all histories."""
        ...

    def rebind(self, sites: Sequence[str]) -> None:
        """Take all intercepts off and bind again."""
        ...

    @property
    def observers(self) -> list[Any]:
        """Who watches the denoiser."""
        ...

    def look(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Create the branch's change indicator if the method has a probe."""
        ...

    @property
    def check(self) -> Callable[[Call, Any, Callable[..., Any], Any], Call]:
        """Checks a call after it was computed."""
        ...

    def warn(self, text: str) -> None:
        """Warn once per session and text."""
        ...


def repeat_call(session: Remembering, call: Call, inner: Callable[..., Any], arguments: Any) -> None:
    """Compute a branch's first call once more, to remember it; what it returns is known already.

    Args:
        session: the session.
        call: the call as it was.
        inner: the denoiser's own call.
        arguments: (args, kwargs) as they were before it.
    """
    old = call.branch
    branch = old.emptied(session.method.predictor.order + 1, old.reset)
    session.state.branches[branch.name] = branch
    observing = old.signature not in session.verified
    session.call = repeated = Call(
        branch, call.index, call.tau, observing, run=call.run, snapshot=call.snapshot
    )
    session.look(repeated, *arguments)
    if observing:
        session.binding.observe()
    whole = session.binding.whole
    # Observers saw this call already.
    with unobserved(session.observers), call.again(arguments) as (args, kwargs, _):
        if whole is None:
            output = inner(*args, **kwargs)
        else:
            output, _ = whole.run(repeated, inner, args, kwargs)
    session.check(repeated, output, inner, arguments)
