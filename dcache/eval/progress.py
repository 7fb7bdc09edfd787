"""How the stages of an evaluation tell how far they are."""

from __future__ import annotations

from collections.abc import Callable

# Called with what is under way, how much of it is done, and how much of it there is.
Progress = Callable[[str, int, int], None]


def silent(_what: str, _done: int, _all: int) -> None:
    """Tell nobody."""
