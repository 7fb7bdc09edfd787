"""Byte counts as text: limits that are read, and others that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from dcache.util.bytes import read_bytes


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        (1, 1),
        (2**40, 2**40),
        ("7", 7),
        ("512MB", 512 * 10**6),
        ("1.5GiB", 3 * 2**29),
        ("2 kb", 2000),
        (" 1TB ", 10**12),
    ],
)
def test_a_limit_is_a_number_or_text_with_a_unit(limit: Any, count: int) -> None:
    assert read_bytes(limit) == count
