"""Attributes of objects: what is read of them for a signature, and how they are put back."""

from collections import deque
from enum import Enum
from typing import Any

import pytest
import torch
from torch import nn

from dcache.intercept.objects import attributes_of, object_mark, put_back


class Mode(Enum):
    READ = "read"
    WRITE = "write"


class Holder:
    """An object with these attributes."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Slotted:
    __slots__ = ("keys", "mode", "never_set")

    def __init__(self, mode: str) -> None:
        self.mode, self.keys = mode, None


X = torch.zeros(2)


def test_attributes_are_those_of_the_dict_or_of_the_slots() -> None:
    assert attributes_of(Holder(a=1, b=X)) == {"a": 1, "b": X}
    assert attributes_of(Slotted("read")) == {"mode": "read", "keys": None}


@pytest.mark.parametrize(
    "value",
    [None, 3, 2.5, "text", Mode.READ, X, [1], (1,), {"a": 1}, {1}, deque([1]), nn.Linear(1, 1), Holder, len,
     lambda: None, torch.Generator(), pytest],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_plain_values_tensors_containers_and_code_have_none(value: Any) -> None:
    assert attributes_of(value) is None


def test_reading_them_runs_no_code_of_the_object() -> None:
    class Guarded:
        @property
        def secret(self) -> Any:
            raise AssertionError("a property was read")

    assert attributes_of(Guarded()) == {}
    assert object_mark(Guarded()) == ("test_reading_them_runs_no_code_of_the_object.<locals>.Guarded", 0)


@pytest.mark.parametrize(
    "other",
    [
        {"mode": Mode.WRITE},
        {"flag": True},
        {"place": 5},
        {"name": "b"},
        {"keys": X},
        {"more": X},
        {"layers": []},
        {"layers": [Holder(mode="write")]},
        {"part": Holder(mode="write")},
    ],
    ids=lambda other: next(iter(other)),
)
def test_plain_attributes_and_lengths_make_another_mark(other: dict[str, Any]) -> None:
    base = {
        "mode": Mode.READ,
        "flag": False,
        "place": 4,
        "name": "a",
        "keys": None,
        "layers": [Holder(mode="read")],
        "part": Holder(mode="read"),
    }
    assert object_mark(Holder(**{**base, **other})) != object_mark(Holder(**base))


def test_tensors_numbers_that_are_no_integers_and_deep_parts_make_none() -> None:
    a = Holder(keys=X, scale=1.0, layers=[Holder(k=[X])])
    b = Holder(keys=torch.ones(5), scale=2.0, layers=[Holder(k=[X + 1])])
    assert object_mark(a) == object_mark(b)
    assert hash(object_mark(a)) == hash(object_mark(b))


def test_a_mark_of_an_object_that_holds_itself_is_finite() -> None:
    ring = Holder(mode="read")
    ring.itself = ring
    assert object_mark(ring) == (
        "Holder",
        2,
        ("mode", "read"),
        ("itself", ("Holder", 2, ("mode", "read"), ("itself", ("Holder", 2, ("mode", "read"))))),
    )


@pytest.mark.parametrize("value", [Holder(mode="read", keys=None), Slotted("read")], ids=["dict", "slots"])
def test_put_back_gives_the_old_attributes_and_takes_new_ones_away(value: Any) -> None:
    before = dict(attributes_of(value) or {})
    value.mode, value.keys = "write", X
    if isinstance(value, Slotted):
        value.never_set = 1
    else:
        value.added = 1
    put_back(value, before)
    assert attributes_of(value) == before == {"mode": "read", "keys": None}
