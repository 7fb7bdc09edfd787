"""Sizes as text."""

import pytest

from dcache.util.bytes import format_bytes


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
