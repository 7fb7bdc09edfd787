"""How figures and findings are written, in the table of a bench and in a report alike."""

from __future__ import annotations

from dcache.util.bytes import format_bytes

# Equal calls whose seconds differ by more than this share make the figures doubtful.
BUSY = 0.25


def share(value: float | None) -> str:
    """A share of 1 in per cent, "-" if it is unknown.

    >>> share(0.351)
    '35 %'
    """
    return "-" if value is None else f"{100 * value:.0f} %"


def number(value: float | None, digits: int) -> str:
    """A number with so many digits behind the point, "-" if it is unknown."""
    return "-" if value is None else f"{value:.{digits}f}"


def size(count: int | None) -> str:
    """Bytes in the unit that fits, "-" if they are unknown.

    >>> size(1310720)
    '1.2 MiB'
    """
    return "-" if count is None else format_bytes(count)


def no_gain(broken: str) -> str:
    """Why a method with broken output has no speedup."""
    return f"{broken}, so no gain is reported"


def busy(longer: float, doubtful: str) -> list[str]:
    """The note on a busy machine, if there is one to make.

    Args:
        longer: how much longer than the fastest of equal calls the slowest took, 0.1 for a tenth.
        doubtful: the figures that follow from these calls.
    """
    if longer <= BUSY:
        return []
    much = f"{longer:.0%} longer" if longer < 1 else f"{1 + longer:.1f} times as long"
    return [f"the machine was busy: equal calls took up to {much}, so trust the {doubtful} less"]
