"""Progress callbacks."""

from __future__ import annotations

from collections.abc import Callable

# Called with a description of each stage.
StageProgress = Callable[[str], None]
# Called with the name of the stage, the number of items done, and the number in total.
Progress = Callable[[str, int, int], None]


def silent(_stage: str, _done: int, _total: int) -> None:
    """Report nothing."""
