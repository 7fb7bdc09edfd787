"""TeaCache (Liu et al. 2024): five coefficients of a polynomial, highest power first, as a list."""

from __future__ import annotations

from typing import Any

from dcache.errors import DcacheError
from dcache.importers.imported import Imported, Options
from dcache.importers.numbers import needed, numbers_of

TAKES: tuple[str, ...] = ()
DEGREE = 4


def fits(content: Any) -> bool:
    """Whether it is such a file; MagCache's ratios of a run of five steps would look the same."""
    found = numbers_of(content, "coefficients")
    return found is not None and len(found) == DEGREE + 1


def convert(content: Any, options: Options) -> Imported:
    """The content of a coefficients file; `options` has nothing to add.

    Raises:
        DcacheError: it is no list of five numbers.
    """
    found = needed(numbers_of(content, "coefficients"), "TeaCache")
    if len(found) != DEGREE + 1:
        raise DcacheError(f"expected {DEGREE + 1} coefficients, highest power first, got {len(found)}")
    return Imported("teacache", coefficients={"teacache": {"coefficients": found}})
