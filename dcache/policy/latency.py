"""What a control loop measured: how long its chunks took, and why some were computed in full."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

from dcache.stats import Stats
from dcache.time_memo import MemoReport

# Chunks whose latency is kept for percentiles; the longest of all is kept for ever.
WINDOW = 10_000


@dataclass(frozen=True)
class LoopStats:
    """Latency and counts of a control loop. Seconds are wall clock, of the whole chunk.

    Attributes:
        chunks: chunks that were made.
        p50, p95, p99: percentiles of the latency of the last 10 000 chunks; 0 without any.
        longest: the longest latency of all chunks.
        late: chunks that took longer than `max_latency`.
        waited: actions that had to wait for a chunk, in a loop that makes chunks ahead.
        jumps: chunks that were computed in full because the observation jumped.
        full: chunks that were computed in full for any reason.
        warm: chunks that began with the one before.
        denoiser: stats of the last chunk's run, None where caching is not enabled.
        memo: what the loop's memo holds and has answered, None without one.
    """

    chunks: int = 0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    late: int = 0
    waited: int = 0
    jumps: int = 0
    full: int = 0
    warm: int = 0
    denoiser: Stats | None = None
    memo: MemoReport | None = None

    def __str__(self) -> str:
        """A small table."""
        times = ", ".join(
            f"{name} {1000 * value:.1f}"
            for name, value in (
                ("p50", self.p50),
                ("p95", self.p95),
                ("p99", self.p99),
                ("max", self.longest),
            )
        )
        rows = [
            ("chunks", f"{self.chunks}: {self.full} in full, {self.jumps} for a jump, {self.warm} warm"),
            ("latency in ms", times),
            ("late", f"{self.late} chunks, {self.waited} actions that waited"),
        ]
        if self.memo is not None:
            counts = self.memo
            rows.append(("memo", f"{counts.hits} answered, {counts.fills + counts.checks} computed"))
        lines = [f"{name:<15}{value}" for name, value in rows]
        return "\n".join([*lines, *([str(self.denoiser)] if self.denoiser is not None else [])])


@dataclass
class Counts:
    """Counts of a loop under way; the fields are those of `LoopStats`."""

    chunks: int = 0
    longest: float = 0.0
    late: int = 0
    waited: int = 0
    jumps: int = 0
    full: int = 0
    warm: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, seconds: float, most: float | None) -> bool:
        """Count a chunk that took so long; whether that was longer than `most`."""
        self.chunks += 1
        self.longest = max(self.longest, seconds)
        self.seconds.append(seconds)
        late = most is not None and seconds > most
        self.late += late
        return late

    def stats(self, denoiser: Stats | None, memo: MemoReport | None = None) -> LoopStats:
        """The counts as the public object."""
        times = sorted(self.seconds)
        return LoopStats(
            chunks=self.chunks,
            p50=percentile(times, 0.5),
            p95=percentile(times, 0.95),
            p99=percentile(times, 0.99),
            longest=self.longest,
            late=self.late,
            waited=self.waited,
            jumps=self.jumps,
            full=self.full,
            warm=self.warm,
            denoiser=denoiser,
            memo=memo,
        )


def percentile(times: Sequence[float], share: float) -> float:
    """The value that this share of the sorted values does not exceed (nearest rank); 0 of none.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5), percentile([1.0, 2.0, 3.0, 4.0], 0.95)
    (2.0, 4.0)
    """
    return times[max(0, ceil(share * len(times)) - 1)] if times else 0.0
