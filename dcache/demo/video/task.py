"""The video model's part of `dcache demo --video`: captions, flicker, drawings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcache.demo.video.clips import demo_captions
from dcache.demo.video.pipeline import coefficients, schedules
from dcache.eval.bench import Bench
from dcache.eval.fidelity import flicker, to_uint8
from dcache.eval.rows import Row

__all__ = ["NAME", "coefficients", "draw", "judged", "prompts", "schedules"]

NAME = "demo-video"


def prompts(count: int) -> list[str]:
    """Held-out captions."""
    return [caption.text for caption in demo_captions(count)]


def judged(done: Bench) -> dict[str, list[float | None]]:
    """Mean flicker to the uncached clips; None for the uncached pipeline and for broken output."""
    first = to_uint8(done.uncached.last.output)
    values: list[float | None] = [None]
    for measured, row in zip(done.methods, done.rows, strict=True):
        clips = to_uint8(measured.last.output)
        values.append(None if row.broken else float(np.mean(flicker(clips, first))))
    return {"flicker": values}


def draw(out: Path, done: Bench, outputs: Sequence[NDArray[np.uint8]]) -> list[Path]:
    """Draw two GIFs, a contact sheet, and speed against fidelity; returns the paths."""
    from dcache.demo.video.animate import draw_contact_sheet, draw_gif
    from dcache.eval.figures import draw_speed_fidelity

    titles = ["uncached", *map(_title, done.rows)]
    return [
        draw_gif(out / "clips.gif", outputs, titles, done.prompts),
        draw_gif(out / "pair.gif", outputs[:2], titles[:2], done.prompts),
        draw_contact_sheet(out / "contact.png", outputs, titles, 0),
        draw_speed_fidelity(out / "speed-fidelity.png", done.rows, of="clip"),
    ]


def _title(row: Row) -> str:
    if row.speedup is None or row.mean_psnr is None:
        return f"{row.label}\nbroken"
    return f"{row.label}\n{row.speedup:.1f}x, {row.mean_psnr:.1f} dB"
