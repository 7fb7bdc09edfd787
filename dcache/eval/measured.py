"""`Measured`: a contestant with its calls, and the medians over them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from dcache.eval.entries import BenchEntry, CallResult


@dataclass
class Measured:
    """One contestant and its calls.

    Attributes:
        inspected: the warm-up call; with FLOPs and bytes held if they were counted, without its output but
            for the uncached pipeline's.
        timed: the calls on the clock, without their outputs but for the last one's.
    """

    contestant: BenchEntry
    inspected: CallResult
    timed: list[CallResult] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Its name in tables and pictures."""
        return self.contestant.label

    @property
    def last(self) -> CallResult:
        """The last call."""
        return self.timed[-1] if self.timed else self.inspected

    @property
    def seconds(self) -> list[float]:
        """Wall clock of every timed call."""
        return [one.cost.seconds for one in self.timed]

    @property
    def median(self) -> float:
        """Median wall clock of a call, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median of the timed calls."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    @property
    def denoiser_median(self) -> float:
        """Median time inside the denoisers, in seconds."""
        return statistics.median(one.cost.denoiser_seconds for one in self.timed)

    @property
    def peak_memory(self) -> int | None:
        """The largest of the timed calls, as `dcache.eval.call_cost.Cost` has it."""
        return max((one.cost.peak_memory or 0 for one in self.timed), default=0) or None

    @property
    def warnings(self) -> list[str]:
        """Texts of the warnings of all calls, each once."""
        return list(dict.fromkeys(text for one in (self.inspected, *self.timed) for text in one.warnings))
