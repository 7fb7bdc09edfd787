"""Names follow values through views, writes in place and several results."""

from __future__ import annotations

import torch

from dcache.time_memo.taint import NOTHING, Taint


def marked() -> tuple[Taint, torch.Tensor, torch.Tensor]:
    taint, x, y = Taint(), torch.ones(4), torch.ones(4)
    taint.mark(x, "x")
    taint.mark(y, "y")
    return taint, x, y


def test_a_result_has_the_names_of_all_operands() -> None:
    taint, x, y = marked()
    with taint:
        both, one, none = torch.cat([x, y]), x * 2, torch.ones(4) + 1
    assert taint.names(both) == {"x", "y"}
    assert taint.names(one) == {"x"}
    assert taint.names(none) == NOTHING


def test_a_write_through_one_view_is_seen_in_another() -> None:
    taint, x, y = marked()
    buffer = torch.zeros(8)
    before = buffer[:4]
    with taint:
        buffer[4:].copy_(x)
        torch.add(y, 1, out=before)
    assert taint.names(before) == taint.names(buffer) == {"x", "y"}


def test_a_freed_storage_gives_its_names_to_no_other() -> None:
    taint = Taint()
    for _ in range(100):
        taint.mark(torch.ones(3), "gone")
        with taint:
            assert taint.names(torch.zeros(3)) == NOTHING


def test_names_are_found_in_containers() -> None:
    taint, x, y = marked()
    assert taint.names_in({"a": [x], "b": (y, 3, None)}) == {"x", "y"}


def test_meta_tensors_have_names_too() -> None:
    taint, x = Taint(), torch.ones(4, device="meta")
    taint.mark(x, "x")
    with taint:
        y = x.reshape(2, 2) @ torch.ones(2, 3, device="meta")
    assert taint.names(y) == {"x"}
