"""Lists of numbers, as MagCache and TeaCache publish them."""

from __future__ import annotations

import math
from typing import Any

from dcache.errors import DcacheError
from dcache.importers.imported import MOST_STEPS
from dcache.util.checks import is_number


def numbers_of(content: Any, *names: str) -> list[float] | None:
    """The list of numbers in a file, bare or under one of the names; None if there is no such list."""
    if isinstance(content, dict):
        lists = [content[name] for name in names if name in content]
        content = lists[0] if len(lists) == 1 and len(content) == 1 else None
    if not isinstance(content, list) or not 0 < len(content) <= 2 * MOST_STEPS:
        return None
    plain = all(map(is_number, content))
    # An int may be too large for a float: comparing it works, converting it would overflow.
    if not plain or not all(abs(v) < 1e300 and not math.isnan(v) for v in content):
        return None
    return [float(v) for v in content]


def needed(values: list[float] | None, method: str) -> list[float]:
    """The list of `numbers_of`.

    Raises:
        DcacheError: the list is None.
    """
    if values is None:
        raise DcacheError(f"this is not {method}'s format: expected a list of finite numbers")
    return values
