"""What `dcache demo` shows of the picture model: captions, its judges' columns, the drawn files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcache.demo.pictures import demo_captions
from dcache.demo.pipeline import COEFFICIENTS
from dcache.eval.bench import Bench

__all__ = ["COEFFICIENTS", "NAME", "draw", "judged", "prompts"]

NAME = "demo"


def prompts(count: int) -> list[str]:
    """Held-out captions."""
    return [caption.text for caption in demo_captions(count)]


def judged(done: Bench) -> dict[str, list[float | None]]:
    """The columns of the demo's own judges, the uncached pipeline first."""
    return {}


def draw(out: Path, done: Bench, outputs: Sequence[NDArray[np.uint8]]) -> list[Path]:
    """The grid of pictures, and speed against fidelity."""
    from dcache.eval.figures import draw_grid, draw_speed_fidelity

    return [
        draw_grid(out / "grid.png", outputs, done.prompts, done.rows),
        draw_speed_fidelity(out / "speed-fidelity.png", done.rows),
    ]
