"""TeaCache (Liu et al. 2024): a list of five polynomial coefficients, highest power first."""

from __future__ import annotations

from typing import Any

from dcache.errors import DcacheError
from dcache.importers.imported import Imported, Options
from dcache.importers.numbers import needed, numbers_of

TAKES: tuple[str, ...] = ()
DEGREE = 4


def fits(content: Any) -> bool:
    """Whether the content is a list of five numbers that is named so."""
    numbers = numbers_of(content, "coefficients") if isinstance(content, dict) else None
    return numbers is not None and len(numbers) == DEGREE + 1


def convert(content: Any, options: Options) -> Imported:
    """Convert the list to coefficients; `options` are not used.

    Raises:
        DcacheError: the content is no list of five numbers.
    """
    numbers = needed(numbers_of(content, "coefficients"), "TeaCache")
    if len(numbers) != DEGREE + 1:
        raise DcacheError(f"expected {DEGREE + 1} coefficients, highest power first, got {len(numbers)}")
    return Imported("teacache", coefficients={"teacache": {"coefficients": numbers}})
