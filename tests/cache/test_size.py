"""Bytes of an anchor before it is there, by hand."""

from __future__ import annotations

import torch

from dcache.cache.size import bytes_in


def test_bytes_by_hand() -> None:
    shape = torch.Size((2, 5, 64))
    assert bytes_in(shape, torch.bfloat16, None) == 1280
    assert bytes_in(shape, torch.bfloat16, torch.float32) == 2560
    assert bytes_in(shape, torch.float32, torch.int8) == 640 + 4 * 10
    assert bytes_in(shape, torch.int64, torch.int8) == 640 * 8
