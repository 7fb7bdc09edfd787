"""Bytes of an anchor before it is there, by hand."""

from __future__ import annotations

import pytest
import torch

from dcache.cache.codec import Codec
from dcache.cache.history import History, tensors_of
from dcache.cache.size import bytes_in, bytes_of_like
from dcache.util.bytes import bytes_of


def test_bytes_by_hand() -> None:
    shape = torch.Size((2, 5, 64))
    assert bytes_in(shape, torch.bfloat16, None) == 1280
    assert bytes_in(shape, torch.bfloat16, torch.float32) == 2560
    assert bytes_in(shape, torch.float32, torch.int8) == 640 + 4 * 10
    assert bytes_in(shape, torch.int64, torch.int8) == 640 * 8


STORES = [None, torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 5, 64), (1, 3, 7, 9), (4,), (2, 1, 300)])
def test_they_are_those_of_the_anchor_that_is_made(
    shape: tuple[int, ...], dtype: torch.dtype, store: torch.dtype | None
) -> None:
    codec, y = Codec("value", store), torch.randn(shape).to(dtype)
    anchor = (codec.close(codec.open(None), y),)
    assert bytes_in(y.shape, dtype, store) == bytes_of(tensors_of(anchor))


def test_an_anchor_weighs_what_its_leaves_do_and_what_is_no_tensor_nothing() -> None:
    history = History(2)
    assert bytes_of_like(history, None) == 0
    history.like = ((torch.Size((2, 8)), torch.float32), None, (torch.Size((3,)), torch.bfloat16))
    assert bytes_of_like(history, None) == 2 * 8 * 4 + 3 * 2
    assert bytes_of_like(history, torch.float16) == 2 * 8 * 2 + 3 * 2
