"""Progress callbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Called with a description of each stage.
StageProgress = Callable[[str], None]
# Called with the name of the stage, the number of items done, and the number in total.
Progress = Callable[[str, int, int], None]


def silent(_stage: str, _done: int, _total: int) -> None:
    """Report nothing."""


@dataclass
class Planned:
    """Progress of work in stages whose numbers of calls are planned, but may turn out smaller.

    Attributes:
        progress: called with the stage, the calls done of all stages, and their planned number.
        total: planned calls of all stages.
        stage: name of the stage.
        end: planned calls up to the end of the stage.
        done: calls done; a stage begins where the one before was planned to end.
    """

    progress: Progress = silent
    total: int = 0
    stage: str = ""
    end: int = 0
    done: int = 0

    def begin(self, stage: str, calls: int) -> None:
        """Begin a stage of at most so many calls."""
        self.stage, self.done = stage, self.end
        self.end += calls
        self.total = max(self.total, self.end)
        self.progress(stage, self.done, self.total)

    def step(self) -> None:
        """Count a call."""
        self.done = min(self.done + 1, self.end)
        self.progress(self.stage, self.done, self.total)
