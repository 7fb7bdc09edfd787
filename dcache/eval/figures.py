"""The two plots of a comparison: a grid of pictures, and speed against fidelity."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcache.eval.canvas import ACCENT, GREY, GRID, INK, new_figure, save
from dcache.eval.labels import place_labels
from dcache.eval.rows import Row

MOST_ROWS = 6


def draw_grid(
    path: Path, columns: Sequence[NDArray[np.uint8]], captions: Sequence[str], rows: Sequence[Row]
) -> Path:
    """Draw a grid: one row per caption (six at most), one column per method, the uncached pictures first."""
    captions = captions[:MOST_ROWS]
    side, margin, head, gap = 1.0, 1.5, 0.78, 0.06
    width = margin + len(columns) * (side + gap)
    height = head + len(captions) * (side + gap)
    figure = new_figure(width, height)
    above: dict[str, Any] = {"ha": "center", "va": "baseline", "linespacing": 1.1}
    for j, pictures in enumerate(columns):
        left = (margin + j * (side + gap)) / width
        colour = INK if j == 0 else ACCENT
        name, figures = _title(None if j == 0 else rows[j - 1])
        middle = left + side / 2 / width
        figure.text(middle, 1 - 0.33 / height, name, size=9.2, weight="bold", color=colour, **above)
        figure.text(middle, 1 - 0.69 / height, figures, size=9, color=GREY, **above)
        for i in range(len(captions)):
            bottom = 1 - (head + (i + 1) * side + i * gap) / height
            axes = figure.add_axes((left, bottom, side / width, side / height))
            axes.imshow(pictures[i], interpolation="bicubic")
            axes.set_axis_off()
    for i, caption in enumerate(captions):
        middle = 1 - (head + (i + 0.5) * side + i * gap) / height
        text = textwrap.fill(caption, 19)
        figure.text((margin - 0.1) / width, middle, text, size=9, color=INK, ha="right", va="center")
    return save(figure, path)


def draw_speed_fidelity(path: Path, rows: Sequence[Row], of: str = "picture") -> Path:
    """Plot speedup against PSNR, one point per method with sound pictures; a line joins the Pareto front.

    Methods that predicted nothing are left out: their PSNR is that of equal pictures, far above all others.
    """
    shown = [
        (row.label, row.speedup, row.mean_psnr)
        for row in rows
        if row.speedup and row.mean_psnr is not None and row.computed != 1
    ]
    figure = new_figure(6.4, 4.2)
    axes = figure.add_axes((0.11, 0.13, 0.86, 0.77))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("speedup of the whole pipeline call (×)", color=INK)
    axes.set_ylabel(f"PSNR to the uncached {of} (dB)", color=INK)
    axes.set_title(
        f"Faster to the right, closer to the uncached {of} upwards", size=10, color=GREY, loc="left"
    )
    points = [(float(x), float(y)) for _, x, y in shown]
    front = sorted(p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points))
    axes.plot(*zip(*front, strict=True) if front else ([], []), color=ACCENT, alpha=0.35, linewidth=1.5)
    for x, y in points:
        axes.plot(x, y, "o", color=ACCENT if (x, y) in front else GREY, markersize=6)
    _limits(axes, points)
    place_labels(figure, axes, [label for label, _, _ in shown], points, front)
    return save(figure, path)


def _title(row: Row | None) -> tuple[str, str]:
    if row is None:
        return "uncached", "1.0×\n"
    name = textwrap.fill(row.label, 13, max_lines=2, placeholder="…")
    if row.speedup is None or row.mean_psnr is None:
        return name, "broken\n"
    return name, f"{row.speedup:.1f}×\n{row.mean_psnr:.1f} dB"


def _limits(axes: Any, points: Sequence[tuple[float, float]]) -> None:
    for values, setter in zip(zip(*points, strict=True), (axes.set_xlim, axes.set_ylim), strict=False):
        low, high = min(values), max(values)
        room = max(0.14 * (high - low), 0.05 * abs(high), 0.1)
        setter(low - room, high + room)
