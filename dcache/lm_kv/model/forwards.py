"""The decoders' forwards that run in this thread, and what the attention modules in them are given."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

# The function in which torch runs a module's hooks and its forward.
_CALL = torch.nn.Module._call_impl.__code__


@dataclass
class Forward:
    """One forward of a decoder.

    An interrupt (Ctrl-C) ends a forward without its hooks: nothing is kept alive by what is left then.

    Attributes:
        decoder: by weak reference.
        cache: a cache of ours, by weak reference; None for forwards without one.
        attachment: dcache's hooks, where the attention implementation is set for this forward.
        inputs: layer -> what its attention was given, `[B, S, D]`, for caches that read it.
    """

    decoder: weakref.ref[torch.nn.Module]
    cache: weakref.ref[Any] | None = None
    attachment: Any = None
    inputs: dict[int, torch.Tensor] = field(default_factory=dict)


_thread = threading.local()


def forwards() -> list[Forward]:
    """Those of this thread, the innermost last."""
    running: list[Forward] = _thread.__dict__.setdefault("running", [])
    return running


def current_cache() -> Any:
    """The cache of the innermost forward; None where it has none of ours, or none runs."""
    running = forwards()
    reference = running[-1].cache if running else None
    return None if reference is None else reference()


def take_input(layer: int) -> torch.Tensor | None:
    """What a layer's attention was given in the innermost forward, which does not hold it any longer."""
    running = forwards()
    return running[-1].inputs.pop(layer, None) if running else None


def interrupted(entered: bool) -> list[Forward]:
    """Take the forwards off the list that an interrupt ended, and return them, the innermost first.

    Args:
        entered: whether this is asked inside a decoder's forward that is not on the list yet.
    """
    running, ended = forwards(), []
    if running:
        modules = list(_modules_that_run())[entered:]
        outermost_first = iter(reversed(modules))
        # Forwards that still run lie in front of those that were interrupted, in the order of their calls.
        count = 0
        while count < len(running):
            decoder = running[count].decoder()
            if not any(decoder is module for module in outermost_first):
                break
            count += 1
        while len(running) > count:
            ended.append(running.pop())
    return ended


def _modules_that_run() -> Iterator[torch.nn.Module]:
    """The modules whose call is on this thread's stack, the innermost first."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is _CALL:
            yield frame.f_locals["self"]
        frame = frame.f_back  # type: ignore[assignment]
