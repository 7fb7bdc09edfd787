"""What a call of a module writes into the module itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dcache.intercept.own_state import OwnState


class Store:
    """What an attention processor remembers, two objects deep."""

    def __init__(self) -> None:
        self.maps: dict[str, list[torch.Tensor]] = {"down": []}


class Processor:
    def __init__(self) -> None:
        self.store = Store()
        self.calls = 0


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(2, 2)
        self.register_buffer("table", torch.zeros(3))
        self.register_buffer("later", None)
        self.processor = Processor()
        self.keys: list[torch.Tensor] = []
        self.tables = [torch.zeros(2), torch.ones(2)]
        self.ropes: dict[int, torch.Tensor] = {}
        self.calls = 0
        self.shapes: list[int] = []


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Part()


REPLACES: dict[str, Callable[[Part], Any]] = {
    "an attribute": lambda p: setattr(p, "last", torch.ones(2)),
    "a pair of tensors": lambda p: setattr(p, "last", (torch.ones(2), torch.ones(2))),
    "a buffer replaced": lambda p: setattr(p, "table", torch.ones(3)),
    "a buffer that was None": lambda p: setattr(p, "later", torch.ones(1)),
    "an entry": lambda p: p.ropes.__setitem__(0, torch.ones(2)),
    "a list of new tensors": lambda p: setattr(p, "keys", [torch.ones(2), torch.ones(2)]),
}
ADDS: dict[str, Callable[[Part], Any]] = {
    "a buffer in place": lambda p: p.table.add_(1),
    "a buffer without a trace": lambda p: p.table.data.copy_(p.table + 1),
    "an item of a list": lambda p: p.keys.append(torch.ones(2)),
    "a map of a processor's store": lambda p: p.processor.store.maps["down"].append(torch.ones(2)),
    "a processor's attribute": lambda p: setattr(p.processor, "last", torch.ones(2)),
    "a new entry in every call": lambda p: p.ropes.__setitem__(len(p.ropes), torch.ones(2)),
}
ONCE: dict[str, Callable[[Part], Any]] = {
    "a table that is made once": lambda p: p.ropes.setdefault(8, torch.ones(2)),
    "a list of tensors that are moved once": lambda p: setattr(p, "tables", [t.half() for t in p.tables]),
    "an attribute that is moved once": lambda p: setattr(p, "table", p.table.to(torch.float16)),
}
NO_WRITES: dict[str, Callable[[Part], Any]] = {
    "nothing": lambda p: None,
    "a counter": lambda p: setattr(p, "calls", p.calls + 1),
    "a list of numbers": lambda p: p.shapes.append(3),
    "a processor's counter": lambda p: setattr(p.processor, "calls", 1),
    "a parameter": lambda p: p.lin.weight.data.add_(1),
    "a list of the same tensors": lambda p: setattr(p, "tables", [table.float() for table in p.tables]),
    "a buffer of the same content": lambda p: setattr(p, "table", p.table + 0),
    "the same tensor again": lambda p: setattr(p, "table", p.table.to(torch.float32)),
}


def held(whole: Whole) -> dict[str, Any]:
    """Everything but counters, by content."""
    part = whole.part
    return {
        "table": part.table.tolist(),
        "later": part.later is None,
        "last": str(vars(part).get("last")),
        "keys": len(part.keys),
        "ropes": list(part.ropes),
        "stored": str(vars(part.processor).get("last")),
        "tables": str(part.tables),
        "maps": len(part.processor.store.maps["down"]),
    }


@pytest.mark.parametrize("name", [*REPLACES, *ADDS])
def test_a_write_of_every_call_is_seen(name: str) -> None:
    whole, write = Whole(), {**REPLACES, **ADDS}[name]
    state = OwnState(whole)
    assert not state.written()
    write(whole.part)
    assert state.written()
    after = held(whole)
    assert state.adds(lambda: write(whole.part)) is (name in ADDS)
    # The call that shows it leaves nothing behind.
    assert held(whole) == after


@pytest.mark.parametrize("name", ONCE)
def test_what_the_first_call_prepares_is_not_written_again(name: str) -> None:
    whole = Whole()
    state = OwnState(whole)
    ONCE[name](whole.part)
    assert state.written()
    assert not state.adds(lambda: ONCE[name](whole.part))


@pytest.mark.parametrize("name", NO_WRITES)
def test_it_does_not_count(name: str) -> None:
    whole = Whole()
    state = OwnState(whole)
    NO_WRITES[name](whole.part)
    assert not state.written()


def test_a_second_call_that_fails_is_no_repetition() -> None:
    whole = Whole()
    state = OwnState(whole)

    def call() -> None:
        whole.part.keys.append(torch.ones(2))
        if len(whole.part.keys) > 1:
            raise ValueError("too many keys")

    call()
    assert state.adds(call)
    assert len(whole.part.keys) == 1


def test_buffers_that_offloading_brings_for_each_call_are_no_writes() -> None:
    whole = Whole()
    whole.part._hf_hook = object()
    state = OwnState(whole)
    whole.part.table = torch.zeros(3)
    assert not state.written()
