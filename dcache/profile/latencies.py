"""`Latencies`: seconds of a call and of its parts, with and without predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Latencies:
    """Median seconds of one call of the pipeline and of its parts.

    Attributes:
        uncached: seconds of the whole call without caching.
        computed: site -> seconds to compute it in one evaluation, on all branches together.
        predicted: site -> seconds to predict it instead.
        flops: site -> floating-point operations of one evaluation, 0 if they were not counted.
        overhead: site -> seconds per call that caching it costs, apart from predictions.
        pictures: pictures or clips of the timed call.
        spread: half of the range between the quartiles of the uncached call, over its median.
    """

    uncached: float
    computed: Mapping[str, float]
    predicted: Mapping[str, float]
    flops: Mapping[str, float] = field(default_factory=dict)
    overhead: Mapping[str, float] = field(default_factory=dict)
    pictures: int = 1
    spread: float = 0.0
