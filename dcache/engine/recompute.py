"""Binds anew and computes a first call once more, where the call showed other sublayers than were bound.

The run is then the same as those that follow it, for which the sublayers are known from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dcache.engine.binding import Binding
from dcache.engine.call import Call
from dcache.engine.protocols import Engine
from dcache.errors import DcacheError


class Rebinding(Engine, Protocol):
    """Interface: the part of a session that is bound anew."""

    binding: Binding

    def rebind(self, sites: Sequence[str]) -> None:
        """Take all intercepts off and bind again."""
        ...

    def remove(self) -> None:
        """Take everything off the module."""
        ...


def computed_again(
    session: Rebinding,
    call: Call,
    reset: str,
    inner: Callable[..., Any],
    arguments: Any,
    output: Any,
) -> Call:
    """Bind the method's sites again, and compute the call under them; what it was counted as is forgotten.

    Args:
        session: the session.
        call: the call, which is over.
        reset: why its branch had been emptied before it, "" if it had not.
        inner: the denoiser's own call.
        arguments: (args, kwargs) as they were before it.
        output: what it returned.

    Returns:
        The call that stands for it.

    Raises:
        DcacheError: the method's sites do not exist any more; caching is taken off.
    """
    try:
        session.rebind(session.method.sites)
    except DcacheError:
        session.state.run = None
        session.remove()
        raise
    before, record = call.branch, session.state.record
    record.withdraw(before.name, call.index, call.counts)
    branch = before.emptied(session.method.predictor.order + 1, reset)
    probe, branch.indicator = session.method.probe, before.indicator
    if probe is not None and probe.where != "input":
        # It may look elsewhere now.
        branch.indicator = probe.indicator()
    session.state.branches[branch.name] = branch
    session.call = again = Call(
        branch, call.index, call.tau, observing=True, run=call.run, counts=call.counts, snapshot=call.snapshot
    )
    session.binding.observe()
    around = session.binding.whole or session.binding.guidance
    with call.again(arguments) as (args, kwargs, _):
        if around is None:
            inner(*args, **kwargs)
        else:
            around.run(again, inner, args, kwargs)
    if branch.indicator is not None and branch.indicator is not before.indicator:
        branch.indicator.end_step(again.computed > 0, output)
    branch.reset = ""
    return again
