"""The picture model's part of `dcache demo`: captions, metrics, drawings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcache.demo.pictures import demo_captions
from dcache.demo.pipeline import coefficients, schedules
from dcache.eval.bench import Bench

__all__ = ["NAME", "coefficients", "draw", "judged", "prompts", "schedules"]

NAME = "demo"


def prompts(count: int) -> list[str]:
    """Held-out captions."""
    return [caption.text for caption in demo_captions(count)]


def judged(done: Bench) -> dict[str, list[float | None]]:
    """Metric -> values of clip-shapes and frechet-shapes, the uncached pipeline first; None if broken."""
    from dcache.demo.metrics import METRICS
    from dcache.eval.fidelity import to_uint8
    from dcache.eval.metrics.base import Batch, Sample
    from dcache.eval.metrics.options import MetricOptions

    outputs = [to_uint8(measured.last.output) for measured in [done.uncached, *done.methods]]
    broken = [False, *(row.broken is not None for row in done.rows)]
    numbers = np.arange(len(done.prompts))
    columns: dict[str, list[float | None]] = {}
    for metric in METRICS:
        read = metric.source.load(MetricOptions(score_device="cpu")).read
        rows = [read(Batch(pictures, None, done.prompts)) for pictures in outputs]
        values = [metric.summary(Sample(sample, rows[0], numbers)).value for sample in rows]
        # The distance of equal sets may be rounded to -0.0; adding 0.0 removes the sign.
        shown = [None if value is None else round(value, metric.digits) + 0.0 for value in values]
        columns[metric.title] = [None if bad else value for bad, value in zip(broken, shown, strict=True)]
    return columns


def draw(out: Path, done: Bench, outputs: Sequence[NDArray[np.uint8]]) -> list[Path]:
    """Draw the grid of pictures, and speed against fidelity; returns the paths."""
    from dcache.eval.figures import draw_grid, draw_speed_fidelity

    return [
        draw_grid(out / "grid.png", outputs, done.prompts, done.rows),
        draw_speed_fidelity(out / "speed-fidelity.png", done.rows),
    ]
