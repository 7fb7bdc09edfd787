"""Where sources of random numbers stand, so that what a further call of a model draws is put back."""

from __future__ import annotations

import random
import sys
from typing import Any

import torch


class Draws:
    """A source of random numbers as it was: a generator, or a module that has a global one.

    Args:
        source: a `torch.Generator`, a `random.Random`, one of numpy's, or `random` or `numpy.random` itself.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self._state = _read(source)

    def moved(self) -> bool:
        """Whether numbers were drawn since, or the source was seeded."""
        return _content(_read(self.source)) != _content(self._state)

    def restore(self) -> None:
        """Let it draw the same numbers again."""
        source, state = self.source, self._state
        if hasattr(source, "setstate"):
            source.setstate(state)
        elif hasattr(source, "set_state"):
            source.set_state(state)
        else:
            source.bit_generator.state = state


def is_random_source(value: Any) -> bool:
    """Whether random numbers are drawn from a value."""
    # Without an import: who has one of numpy's has imported numpy.
    numpy = sys.modules.get("numpy.random")
    kinds = (torch.Generator, random.Random)
    return isinstance(value, kinds if numpy is None else (*kinds, numpy.Generator, numpy.RandomState))


def global_sources() -> list[Any]:
    """The sources that any model may draw from, besides torch's: Python's, and numpy's where it is loaded."""
    numpy = sys.modules.get("numpy.random")
    return [random] if numpy is None else [random, numpy]


def _read(source: Any) -> Any:
    if hasattr(source, "getstate"):
        return source.getstate()
    return source.get_state() if hasattr(source, "get_state") else source.bit_generator.state


def _content(state: Any) -> Any:
    """A state as plain values, which can be compared: some are arrays, or have such as parts."""
    if hasattr(state, "tolist"):
        return state.tolist()
    if isinstance(state, dict):
        return {name: _content(part) for name, part in state.items()}
    return [_content(part) for part in state] if isinstance(state, tuple) else state
