"""Checks of users' numbers, with one message for each kind of number."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeGuard

from dcache.errors import DcacheError


def plain(value: Any) -> Any:
    """A number of NumPy, torch or another library as the Python number, which JSON can hold.

    Args:
        value: anything; scalars and tensors without dimensions become numbers, arrays and tensors with one
            dimension lists, and lists and tuples are converted entry by entry. All else is returned.
    """
    if type(value) in (list, tuple):
        entries = list(map(plain, value))
        same = all(new is old for new, old in zip(entries, value, strict=True))
        return value if same else type(value)(entries)
    dims = getattr(value, "ndim", None)
    try:
        if dims in (0, 1) and hasattr(value, "item") and hasattr(value, "tolist"):
            return value.tolist()
        if not isinstance(value, int | float | str | bytes) and dims is None:
            if hasattr(type(value), "__index__"):
                return operator.index(value)
            if isinstance(value, Real):
                return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        # Tensors of the device "meta" have no value.
        pass
    return value


def _scalar(value: object) -> object:
    return value if isinstance(value, list | tuple) or getattr(value, "ndim", 0) != 0 else plain(value)


def is_whole(value: object) -> TypeGuard[int]:
    """True for a whole number, also one of NumPy or a tensor without dimensions, but not for a bool."""
    number = _scalar(value)
    return isinstance(number, int) and not isinstance(number, bool)


def is_number(value: object) -> TypeGuard[float]:
    """True for a number, NaN and infinity included, of the same libraries, but not for a bool."""
    number = _scalar(value)
    return isinstance(number, int | float) and not isinstance(number, bool)


def is_finite(value: object) -> TypeGuard[float]:
    """True for a number of the same libraries that a float can hold, so neither NaN nor infinity."""
    return is_number(value) and abs(plain(value)) <= sys.float_info.max


def check_whole(name: str, value: object, least: int) -> int:
    """Check a whole number; returns it as a Python number.

    Raises:
        DcacheError: it is not a whole number, or below `least`.
    """
    if not is_whole(value) or value < least:
        raise DcacheError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def check_odd(name: str, value: object) -> int:
    """Check a width that is centred; returns it as a Python number.

    Raises:
        DcacheError: it is not a whole number, below 1, or even.
    """
    number = check_whole(name, value, 1)
    if number % 2 == 0:
        raise DcacheError(f"{name} must be odd, got {value!r}")
    return number


def check_number(name: str, value: object, least: float = -math.inf, most: float = math.inf) -> float:
    """Check a number; returns it as a Python number.

    Raises:
        DcacheError: it is not a number, below `least`, or above `most`.
    """
    if not is_number(value) or not least <= value <= most:
        bounds = "" if least == -math.inf else f" of at least {least}"
        bounds += "" if most == math.inf else f" and at most {most}" if bounds else f" of at most {most}"
        raise DcacheError(f"{name} must be a number{bounds}, got {value!r}")
    number: float = plain(value)
    return number


def check_wholes(name: str, values: object, least: int) -> tuple[int, ...]:
    """Check a list of whole numbers; returns it as a tuple.

    Raises:
        DcacheError: it is no list, or an entry is not a whole number of at least `least`.
    """
    values = plain(values)
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise DcacheError(f"{name} must be a list of whole numbers, got {values!r}")
    return tuple(check_whole(f"every entry of {name}", value, least) for value in values)


def check_share(name: str, value: object, least: int) -> None:
    """Check a count or a share.

    Raises:
        DcacheError: it is neither a whole number of at least `least`, nor a float between 0 and 1.
    """
    if isinstance(plain(value), float):
        if not 0.0 < plain(value) < 1.0:
            raise DcacheError(f"{name} as a share must lie between 0 and 1, got {value!r}")
    else:
        check_whole(name, value, least)
