"""Lists of numbers, as MagCache and TeaCache publish them."""

from __future__ import annotations

import math
from typing import Any

from dcache.errors import DcacheError
from dcache.importers.imported import MOST_STEPS
from dcache.util.checks import is_number


def numbers_of(content: Any, *names: str) -> list[float] | None:
    """The list of a file, bare or under one of the names; None if it is no list of finite numbers."""
    if isinstance(content, dict):
        found = [content[name] for name in names if name in content]
        content = found[0] if len(found) == 1 and len(content) == 1 else None
    if not isinstance(content, list) or not 0 < len(content) <= 2 * MOST_STEPS:
        return None
    plain = all(map(is_number, content))
    # A whole number beyond floats is no ratio; comparing it does not overflow, converting it would.
    if not plain or not all(abs(v) < 1e300 and not math.isnan(v) for v in content):
        return None
    return [float(v) for v in content]


def needed(found: list[float] | None, what: str) -> list[float]:
    """The list.

    Raises:
        DcacheError: there is none.
    """
    if found is None:
        raise DcacheError(f"this is no file of {what}: expected a list of finite numbers")
    return found
