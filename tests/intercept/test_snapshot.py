"""A call that is made once more finds what the first one found, and leaves what that left."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dcache.intercept.snapshot import Snapshot


class Counters:
    """An object of the model's own, two deep."""

    def __init__(self) -> None:
        self.calls, self.seen = 0, {"calls": 0}


class Slotted:
    """An object without a dict."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0


class Counting(nn.Module):
    """Counts its calls in every way there is, in a part."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(1, 1)
        part: Any = self.part
        part.calls, part.counts, part.numbers = 0, np.zeros(1), [0]
        part.table, part.marks, part.last = {"calls": 0}, {0}, deque([0], maxlen=2)
        part.counters, part.slotted, part.generator = Counters(), Slotted(), torch.Generator()
        part.pair = ({"calls": 0},)

    def fail(self) -> None:
        """Count, and fail."""
        self.part.calls = 7
        raise ValueError("no")


WRITES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "an attribute": (lambda p: setattr(p, "calls", p.calls + 1), lambda p: p.calls),
    "a new attribute": (
        lambda p: setattr(p, "later", getattr(p, "later", 0) + 1),
        lambda p: getattr(p, "later", 0),
    ),
    "an attribute that is taken off": (lambda p: vars(p).pop("calls", None), lambda p: "calls" in vars(p)),
    "an array": (lambda p: p.counts.__iadd__(1), lambda p: float(p.counts[0])),
    "a list": (lambda p: p.numbers.append(1), lambda p: list(p.numbers)),
    "a dict": (lambda p: p.table.update(calls=p.table["calls"] + 1), lambda p: dict(p.table)),
    "a dict in a tuple": (
        lambda p: p.pair[0].update(calls=p.pair[0]["calls"] + 1),
        lambda p: dict(p.pair[0]),
    ),
    "a set": (lambda p: p.marks.add(len(p.marks)), lambda p: set(p.marks)),
    "a ring": (lambda p: p.last.append(p.last[-1] + 1), lambda p: list(p.last)),
    "an object": (
        lambda p: setattr(p.counters, "calls", p.counters.calls + 1),
        lambda p: p.counters.calls,
    ),
    "an object's dict": (
        lambda p: p.counters.seen.update(calls=p.counters.seen["calls"] + 1),
        lambda p: dict(p.counters.seen),
    ),
    "an object with slots": (
        lambda p: setattr(p.slotted, "calls", p.slotted.calls + 1),
        lambda p: p.slotted.calls,
    ),
    "a generator": (
        lambda p: torch.rand(1, generator=p.generator),
        lambda p: p.generator.get_state().tolist(),
    ),
    "torch's numbers": (lambda p: torch.rand(1), lambda p: torch.get_rng_state().tolist()),
    "numpy's numbers": (lambda p: np.random.rand(), lambda p: str(np.random.get_state())),
    "Python's numbers": (lambda p: random.random(), lambda p: random.getstate()),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_further_call_finds_what_the_first_one_found_and_leaves_what_that_left(name: str) -> None:
    write, read = WRITES[name]
    model = Counting()
    before, snapshot = read(model.part), Snapshot(model)
    write(model.part)
    after = read(model.part)
    assert after != before
    with snapshot.again():
        assert read(model.part) == before
        write(model.part)
        write(model.part)
    assert read(model.part) == after


def test_it_is_left_so_where_the_further_call_fails() -> None:
    model: Any = Counting()
    snapshot = Snapshot(model)
    model.part.calls = 1
    with pytest.raises(ValueError, match="no"), snapshot.again():
        model.fail()
    assert model.part.calls == 1


def test_an_iterator_that_the_model_holds_is_noticed() -> None:
    model: Any = Counting()
    assert not Snapshot(model).iterates
    model.part.counters.lines = iter(())
    # Another library's object may have some for its own use.
    assert not Snapshot(model).iterates
    model.part.noises = iter(())
    assert Snapshot(model).iterates
