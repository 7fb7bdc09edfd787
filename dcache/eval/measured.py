"""`Measured`: one method's calls in a comparison, and medians over them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from dcache.eval.entries import BenchEntry, CallResult


@dataclass
class Measured:
    """One method and its calls.

    Attributes:
        contestant: the method.
        inspected: the warm-up call, with FLOPs and bytes held if they were counted. Its output is kept only
            for the uncached pipeline.
        timed: the timed calls. Only the last one keeps its output.
    """

    contestant: BenchEntry
    inspected: CallResult
    timed: list[CallResult] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Name in tables and plots."""
        return self.contestant.label

    @property
    def last(self) -> CallResult:
        """The last timed call; the warm-up if there is none."""
        return self.timed[-1] if self.timed else self.inspected

    @property
    def seconds(self) -> list[float]:
        """Wall clock of every timed call."""
        return [call.cost.seconds for call in self.timed]

    @property
    def median(self) -> float:
        """Median wall clock of a call, in seconds."""
        return statistics.median(self.seconds)

    @property
    def first(self) -> float | None:
        """Median wall clock of the first call after the method was enabled; None where only one is made."""
        firsts = [call.earlier[0] for call in self.timed if call.earlier]
        return statistics.median(firsts) if firsts else None

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median of the timed calls."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    @property
    def denoiser_median(self) -> float:
        """Median time inside the denoisers, in seconds."""
        return statistics.median(call.cost.denoiser_seconds for call in self.timed)

    @property
    def peak_memory(self) -> int | None:
        """Largest peak memory of the timed calls, in bytes, as in `dcache.eval.call_cost.Cost`."""
        return max((call.cost.peak_memory or 0 for call in self.timed), default=0) or None

    @property
    def warnings(self) -> list[str]:
        """Texts of the warnings of all calls, each once."""
        return list(dict.fromkeys(text for call in (self.inspected, *self.timed) for text in call.warnings))
