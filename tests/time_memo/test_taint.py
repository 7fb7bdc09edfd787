"""Names follow values through views, writes in place and several results."""

from __future__ import annotations

import pytest
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


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_an_operator_that_takes_functions_is_followed() -> None:
    # Its module is slow to import.
    from torch.nn.attention.flex_attention import flex_attention

    taint, bias = Taint(), torch.zeros(2)
    q, k, v = (torch.ones(1, 1, 2, 4) * i for i in range(3))
    for tensor, name in ((q, "q"), (k, "k"), (v, "v"), (bias, "bias")):
        taint.mark(tensor, name)

    def shifted(
        score: torch.Tensor, b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor
    ) -> torch.Tensor:
        return score + bias[i]

    with torch.compiler.set_stance("force_eager"), taint:
        plain = flex_attention(q, k, v)
        biased = flex_attention(q, k, v, score_mod=shifted)
        later = flex_attention(plain, k, k) + 1
        none = flex_attention(*(torch.ones(1, 1, 2, 4) for _ in "qkv"))
    assert taint.names(plain) == taint.names(later) == {"q", "k", "v"}
    assert taint.names(biased) == {"q", "k", "v", "bias"}
    assert taint.names(none) == NOTHING
