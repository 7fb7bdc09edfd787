"""Text of figures and notes, for the table of a bench and for reports."""

from __future__ import annotations

from dcache.util.bytes import format_bytes

# If the seconds of equal calls differ by more than this share, a note says so.
BUSY = 0.25


def share(value: float | None) -> str:
    """A share of 1 in per cent; "-" for None.

    >>> share(0.351)
    '35 %'
    """
    return "-" if value is None else f"{100 * value:.0f} %"


def number(value: float | None, digits: int) -> str:
    """A number with `digits` decimals; "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def size(count: int | None) -> str:
    """Bytes in a fitting unit; "-" for None.

    >>> size(1310720)
    '1.2 MiB'
    """
    return "-" if count is None else format_bytes(count)


def no_gain(broken: str) -> str:
    """The note on a method with broken output."""
    return f"{broken}, so no gain is reported"


def busy(longer: float, doubtful: str) -> list[str]:
    """The note on a busy machine, in a list; empty if calls were steady.

    Args:
        longer: slowest over fastest of equal calls, minus 1.
        doubtful: name of the figures computed from these calls.
    """
    if longer <= BUSY:
        return []
    much = f"{longer:.0%} longer" if longer < 1 else f"{1 + longer:.1f} times as long"
    return [f"the machine was busy: equal calls took up to {much}, so trust the {doubtful} less"]
