"""Animated GIFs and a contact sheet of clips."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dcache.eval.canvas import INK
from dcache.util.files import write

if TYPE_CHECKING:
    from PIL.Image import Image

Clips = NDArray[np.uint8]

ENLARGED = 4
MARGIN, HEAD, GAP = 150, 36, 6
MOST_ROWS = 4
# Duration of a frame, and of the last one, which is longer to separate the loop's end from its start.
MILLISECONDS, LAST = 120, 600


def draw_gif(path: Path, columns: Sequence[Clips], titles: Sequence[str], captions: Sequence[str]) -> Path:
    """Draw an animated GIF: a row for each caption (four at most), a column for each method.

    Args:
        path: the file.
        columns: for each method the clips (N, T, H, W, 3), one of each caption.
        titles: text above the columns; a line break starts a second line.
        captions: text beside the rows.
    """
    from PIL.Image import Dither

    captions = captions[:MOST_ROWS]
    frames = columns[0].shape[1]
    sheets = [_sheet([list(c[: len(captions), t]) for c in columns], titles, captions) for t in range(frames)]
    # One palette for all frames: palettes that differ from frame to frame would flicker.
    strip = np.concatenate([np.asarray(sheet) for sheet in sheets[:: max(1, frames // 4)]])
    palette = _image(strip).quantize(256)
    moving = [sheet.quantize(palette=palette, dither=Dither.NONE) for sheet in sheets]
    durations = [MILLISECONDS] * (frames - 1) + [LAST]

    def save(temporary: Path) -> None:
        first, *rest = moving
        first.save(temporary, save_all=True, append_images=rest, duration=durations, loop=0, optimize=False)

    return write(path, save)


def draw_contact_sheet(path: Path, columns: Sequence[Clips], titles: Sequence[str], caption: int) -> Path:
    """Draw one caption's clips: a row for each method, a column for every other frame."""
    shown = range(0, columns[0].shape[1], 2)
    cells = [[clips[caption, t] for clips in columns] for t in shown]
    sheet = _sheet(cells, [f"frame {t + 1}" for t in shown], titles)
    return write(path, sheet.save)


def _sheet(cells: Sequence[Sequence[Clips]], titles: Sequence[str], sides: Sequence[str]) -> Image:
    """A sheet of pictures `cells[column][row]`, with text above the columns and beside the rows."""
    from PIL import ImageDraw, ImageFont

    side = cells[0][0].shape[0] * ENLARGED
    pitch = side + GAP
    canvas = np.full((HEAD + len(sides) * pitch, MARGIN + len(titles) * pitch, 3), 255, np.uint8)
    for j, column in enumerate(cells):
        for i, picture in enumerate(column):
            top, left = HEAD + i * pitch, MARGIN + j * pitch
            canvas[top : top + side, left : left + side] = picture.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    sheet = _image(canvas)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for j, title in enumerate(titles):
        where = (MARGIN + j * pitch + side / 2, HEAD / 2)
        pen.text(where, title, INK, font, anchor="mm", align="center", spacing=1)
    for i, text in enumerate(sides):
        where = (MARGIN - 10, HEAD + i * pitch + side / 2)
        lines = "\n".join(textwrap.fill(line, 22) for line in text.splitlines())
        pen.text(where, lines, INK, font, anchor="rm", align="right", spacing=2)
    return sheet


def _image(pixels: NDArray[np.uint8]) -> Image:
    from PIL import Image

    return Image.fromarray(pixels)
