"""Checks of users' numbers, with one message for each kind of number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from dcache.errors import DcacheError


def is_whole(value: object) -> TypeGuard[int]:
    """True for a whole number, but not for a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """True for a number, NaN and infinity included, but not for a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_whole(name: str, value: object, least: int) -> None:
    """Check a whole number.

    Raises:
        DcacheError: it is not a whole number, or below `least`.
    """
    if not is_whole(value) or value < least:
        raise DcacheError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_number(name: str, value: object, least: float) -> None:
    """Check a number.

    Raises:
        DcacheError: it is not a number, or below `least`.
    """
    if not is_number(value) or not value >= least:
        raise DcacheError(f"{name} must be a number of at least {least}, got {value!r}")


def check_wholes(name: str, values: object, least: int) -> tuple[int, ...]:
    """Check a list of whole numbers; returns it as a tuple.

    Raises:
        DcacheError: it is no list, or an entry is not a whole number of at least `least`.
    """
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise DcacheError(f"{name} must be a list of whole numbers, got {values!r}")
    for value in values:
        check_whole(f"every entry of {name}", value, least)
    return tuple(values)


def check_share(name: str, value: object, least: int) -> None:
    """Check a count or a share.

    Raises:
        DcacheError: it is neither a whole number of at least `least`, nor a float between 0 and 1.
    """
    if isinstance(value, float):
        if not 0.0 < value < 1.0:
            raise DcacheError(f"{name} as a share must lie between 0 and 1, got {value!r}")
    else:
        check_whole(name, value, least)
