"""What `dcache demo` shows of the picture model: captions, its judges' columns, the drawn files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcache.demo.pictures import demo_captions
from dcache.demo.pipeline import COEFFICIENTS, SCHEDULES
from dcache.eval.bench import Bench

__all__ = ["COEFFICIENTS", "NAME", "SCHEDULES", "draw", "judged", "prompts"]

NAME = "demo"


def prompts(count: int) -> list[str]:
    """Held-out captions."""
    return [caption.text for caption in demo_captions(count)]


def judged(done: Bench) -> dict[str, list[float | None]]:
    """What clip-shapes and frechet-shapes say, the uncached pipeline first; nothing of broken pictures."""
    from dcache.demo.metrics import METRICS
    from dcache.eval.fidelity import to_uint8
    from dcache.eval.metrics.base import Batch, Sample
    from dcache.eval.metrics.options import MetricOptions

    outputs = [to_uint8(one.last.output) for one in [done.uncached, *done.methods]]
    broken = [False, *(its.broken is not None for its in done.rows)]
    numbers = np.arange(len(done.prompts))
    found: dict[str, list[float | None]] = {}
    for metric in METRICS:
        read = metric.source.load(MetricOptions(score_device="cpu")).read
        rows = [read(Batch(pictures, None, done.prompts)) for pictures in outputs]
        values = [metric.summary(Sample(own, rows[0], numbers)).value for own in rows]
        # Of equal sets the distance is zero up to rounding, of either sign.
        shown = [None if value is None else round(value, metric.digits) + 0.0 for value in values]
        found[metric.title] = [None if bad else value for bad, value in zip(broken, shown, strict=True)]
    return found


def draw(out: Path, done: Bench, outputs: Sequence[NDArray[np.uint8]]) -> list[Path]:
    """The grid of pictures, and speed against fidelity."""
    from dcache.eval.figures import draw_grid, draw_speed_fidelity

    return [
        draw_grid(out / "grid.png", outputs, done.prompts, done.rows),
        draw_speed_fidelity(out / "speed-fidelity.png", done.rows),
    ]
