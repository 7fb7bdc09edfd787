"""Entries: stored once, never changed, forgotten with their conditions."""

from __future__ import annotations

import torch

from dcache.time_memo.keys import Identities
from dcache.time_memo.table import Table, equal


def test_bytes_are_those_of_the_entries() -> None:
    table = Table()
    table.store("a", (torch.zeros(4), {"x": torch.zeros(2, dtype=torch.int64)}))
    table.store("a", torch.zeros(3))
    table.store("b", torch.zeros(5))
    assert table.nbytes == (3 + 5) * 4
    table.clear()
    assert table.nbytes == 0
    assert table.find("a") is None


def test_what_the_model_writes_into_is_lost_and_it_gets_copies_from_then_on() -> None:
    table = Table()
    output = table.store("a", torch.zeros(4))
    output += 1
    assert table.find("a") is None
    table.store("a", torch.zeros(4))
    entry = table.find("a")
    assert entry is not None
    table.output(entry).add_(1)
    again = table.find("a")
    assert again is not None
    assert torch.equal(table.output(again), torch.zeros(4))


def test_entries_of_inference_mode_are_copied_for_they_have_no_version() -> None:
    table = Table()
    with torch.inference_mode():
        output = table.store("a", torch.zeros(4))
        output += 1
        entry = table.find("a")
        assert entry is not None
        assert torch.equal(table.output(entry), torch.zeros(4))


def test_entries_go_with_their_conditions() -> None:
    table, identities = Table(), Identities()
    one, two = torch.zeros(64), torch.zeros(64)
    first, second = identities.of(one), identities.of(two)
    table.store((first, "t"), torch.zeros(4))
    table.store((second, "t"), torch.zeros(2))
    table.store("t", torch.zeros(1))
    table.forget({first.number})
    assert table.find((first, "t")) is None
    assert table.nbytes == 3 * 4


def test_equal_is_by_bits() -> None:
    nan, zero = torch.tensor([float("nan")]), torch.tensor([0.0])
    assert equal((nan, [zero]), (nan.clone(), [zero.clone()]))
    assert not equal(zero, -zero)
    assert not equal(zero, zero.double())
    assert not equal(torch.zeros(2, 1), torch.zeros(1, 2))
    assert not equal((zero, zero), zero)
    assert equal(torch.tensor(1.0).expand(3), torch.ones(3))


def test_what_was_not_looked_up_lately_is_thrown_away() -> None:
    table = Table()
    for key in range(4):
        table.store(key, torch.ones(1))
    for _ in range(5):
        table.find(2), table.find(3)
    table.forget_unused()
    assert list(table.entries) == [2, 3]
    assert table.nbytes == 8
    # A loop over all entries comes to each before it is old.
    for _ in range(10):
        table.find(2), table.find(3)
        table.forget_unused()
    assert list(table.entries) == [2, 3]


def test_full_tables_have_an_entry_for_each_timestep_conditions_and_shapes() -> None:
    table = Table()
    for time in ("a", "b"):
        for pooled in ("x", "y"):
            table.store((((), time, pooled), 0), torch.zeros(2))
    # The same conditions with other shapes.
    table.store((((), "a", "x"), 1), torch.zeros(5))
    # What the timestep is no part of has one entry.
    table.store((((), None, "x"), 0), torch.zeros(3))
    assert table.full_bytes(7) == 7 * (2 + 2 + 5) * 4 + 3 * 4


def test_a_table_shrinks_by_its_oldest_entries() -> None:
    table = Table()
    for key in range(4):
        table.store(key, torch.zeros(2))
    assert table.shrink(9) == 16
    assert list(table.entries) == [2, 3]
    assert table.shrink(100) == 16
    assert table.nbytes == 0
