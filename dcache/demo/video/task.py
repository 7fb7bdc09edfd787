"""What `dcache demo --video` shows of the video model: captions, flicker, the drawn files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcache.demo.video.clips import demo_captions
from dcache.demo.video.pipeline import COEFFICIENTS, SCHEDULES
from dcache.eval.bench import Bench
from dcache.eval.fidelity import flicker, to_uint8
from dcache.eval.rows import Row

__all__ = ["COEFFICIENTS", "NAME", "SCHEDULES", "draw", "judged", "prompts"]

NAME = "demo-video"


def prompts(count: int) -> list[str]:
    """Held-out captions."""
    return [caption.text for caption in demo_captions(count)]


def judged(done: Bench) -> dict[str, list[float | None]]:
    """Flicker to the uncached clips."""
    first = to_uint8(done.uncached.last.output)
    found: list[float | None] = [None]
    for one, its in zip(done.methods, done.rows, strict=True):
        found.append(None if its.broken else float(np.mean(flicker(to_uint8(one.last.output), first))))
    return {"flicker": found}


def draw(out: Path, done: Bench, outputs: Sequence[NDArray[np.uint8]]) -> list[Path]:
    """Two GIFs, a contact sheet, and speed against fidelity."""
    from dcache.demo.video.animate import draw_contact_sheet, draw_gif
    from dcache.eval.figures import draw_speed_fidelity

    titles = ["uncached", *map(_title, done.rows)]
    return [
        draw_gif(out / "clips.gif", outputs, titles, done.prompts),
        draw_gif(out / "pair.gif", outputs[:2], titles[:2], done.prompts),
        draw_contact_sheet(out / "contact.png", outputs, titles, 0),
        draw_speed_fidelity(out / "speed-fidelity.png", done.rows, of="clip"),
    ]


def _title(its: Row) -> str:
    if its.speedup is None or its.mean_psnr is None:
        return f"{its.label}\nbroken"
    return f"{its.label}\n{its.speedup:.1f}x, {its.mean_psnr:.1f} dB"
