"""Byte counts as text: limits that are read, and others that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dcache.errors import DcacheError
from dcache.util.bytes import bytes_of, bytes_of_elements, format_bytes, read_bytes


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


def test_units_are_read_in_any_case_with_or_without_a_space() -> None:
    assert read_bytes("3mb") == read_bytes("3 MB") == read_bytes("3Mb") == 3_000_000
    assert read_bytes("0.5KiB") == 512
    # A part of a byte is none.
    assert read_bytes("1.9") == 1


@pytest.mark.parametrize(
    "limit", [0, -5, True, 2.5, None, "", "many", "MB", "5 parsecs", "-1MB", "0", "0.1", "1e9", b"5MB", [5]]
)
def test_what_is_no_positive_number_of_bytes_is_refused_with_examples(limit: Any) -> None:
    with pytest.raises(DcacheError, match=r"at least 1, or text such as '512MB' or '1\.5GiB', got") as caught:
        read_bytes(limit)
    assert str(caught.value).endswith(repr(limit))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 KiB"),
        (1536, "2 KiB"),
        (1 << 20, "1.0 MiB"),
        (1310720, "1.2 MiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 40, "5120.0 GiB"),
    ],
)
def test_a_size_is_in_the_unit_that_fits(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_elements_are_counted_where_views_stand_on_larger_storages() -> None:
    whole = torch.zeros(10, dtype=torch.float64)
    views = (whole[:3], torch.zeros(1).expand(4, 5), torch.zeros(2, dtype=torch.uint8))
    assert bytes_of_elements(views) == 3 * 8 + 20 * 4 + 2
    assert bytes_of(views) == 10 * 8 + 4 + 2
