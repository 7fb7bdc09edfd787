"""Threads that call a pipeline, or run a loop with a sampler."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from dcache.identity.callers import drives


def is_called_in(pipe: Any, thread: int) -> bool:
    """Whether a pipeline's call is under way in a thread.

    The thread's frames tell, rather than a note that a call began: a call that raised leaves no frame.

    Args:
        pipe: the pipeline.
        thread: the thread's identifier, as `threading.get_ident` has it; it may be over.

    >>> from dcache.identity.threads import is_called_in
    >>> is_called_in(object(), 0)
    False
    """
    codes = {
        code
        for kind in type(pipe).__mro__
        if (code := getattr(inspect.unwrap(vars(kind).get("__call__", _nothing)), "__code__", None))
    }
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code in codes and frame.f_locals.get("self") is pipe:
            return True
        frame = frame.f_back
    return False


def is_driven_in(sampler: Any, thread: int) -> bool:
    """Whether a loop with this sampler is under way in a thread, by the thread's frames too.

    Args:
        sampler: the sampler.
        thread: the thread's identifier; it may be over.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if drives(frame, sampler):
            return True
        frame = frame.f_back
    return False


def _nothing() -> None:
    """Stand for a class without a call of its own."""
