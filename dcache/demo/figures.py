"""The two pictures of a demonstration: the grid of images, and speed against fidelity."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcache.demo.files import write
from dcache.demo.report import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, GREY, ACCENT = "#1f2430", "#6b7280", "#1d6fd1"
MOST_ROWS = 6
DPI = 160
# Where a label may stand around its point: offset in points, horizontal and vertical alignment.
PLACES = (
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (6, 7, "left", "bottom"),
    (-6, 7, "right", "bottom"),
    (6, -7, "left", "top"),
    (-6, -7, "right", "top"),
    (0, 20, "center", "bottom"),
    (0, -20, "center", "top"),
    (20, 18, "left", "bottom"),
    (-20, -18, "right", "top"),
)


def draw_grid(
    path: Path, columns: Sequence[NDArray[np.uint8]], captions: Sequence[str], rows: Sequence[Row]
) -> Path:
    """One row per caption (six at most), one column per method, the uncached pictures first."""
    captions = captions[:MOST_ROWS]
    side, margin, head, gap = 1.0, 1.3, 0.62, 0.06
    width = margin + len(columns) * (side + gap)
    height = head + len(captions) * (side + gap)
    figure = _figure(width, height)
    for j, pictures in enumerate(columns):
        left = (margin + j * (side + gap)) / width
        colour = INK if j == 0 else ACCENT
        name, figures = _title(None if j == 0 else rows[j - 1])
        middle = left + side / 2 / width
        figure.text(
            middle, 1 - 0.20 / height, name, size=7.6, weight="bold", color=colour, ha="center", va="center"
        )
        figure.text(middle, 1 - 0.48 / height, figures, size=7.2, color=GREY, ha="center", va="center")
        for i in range(len(captions)):
            bottom = 1 - (head + (i + 1) * side + i * gap) / height
            axes = figure.add_axes((left, bottom, side / width, side / height))
            axes.imshow(pictures[i], interpolation="bicubic")
            axes.set_axis_off()
    for i, caption in enumerate(captions):
        middle = 1 - (head + (i + 0.5) * side + i * gap) / height
        text = textwrap.fill(caption, 17)
        figure.text((margin - 0.1) / width, middle, text, size=7.2, color=INK, ha="right", va="center")
    return write(path, lambda temporary: figure.savefig(temporary, dpi=DPI, facecolor="white"))


def draw_speed_fidelity(path: Path, rows: Sequence[Row]) -> Path:
    """Speedup against PSNR, one labelled point per method with unbroken pictures; a line joins the unbeaten ones."""
    shown = [
        (one.label, one.speedup, one.mean_psnr) for one in rows if one.speedup and one.mean_psnr is not None
    ]
    figure = _figure(6.4, 4.2)
    axes = figure.add_axes((0.1, 0.13, 0.87, 0.77))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("speedup of the whole pipeline call (×)", color=INK)
    axes.set_ylabel("PSNR to the uncached picture (dB)", color=INK)
    axes.set_title(
        "Faster to the right, closer to the uncached picture upwards", size=10, color=GREY, loc="left"
    )
    points = [(float(x), float(y)) for _, x, y in shown]
    front = sorted(p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points))
    axes.plot(*zip(*front, strict=True) if front else ([], []), color=ACCENT, alpha=0.35, linewidth=1.5)
    for x, y in points:
        axes.plot(x, y, "o", color=ACCENT if (x, y) in front else GREY, markersize=6)
    _limits(axes, points)
    _label(figure, axes, [label for label, _, _ in shown], points)
    return write(path, lambda temporary: figure.savefig(temporary, dpi=DPI, facecolor="white"))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def _title(row: Row | None) -> tuple[str, str]:
    if row is None:
        return "uncached", "1.0×"
    name = textwrap.fill(row.label, 13, max_lines=2, placeholder="…")
    if row.speedup is None or row.mean_psnr is None:
        return name, "broken"
    return name, f"{row.speedup:.1f}×  {row.mean_psnr:.1f} dB"


def _limits(axes: Any, points: Sequence[tuple[float, float]]) -> None:
    for values, setter in zip(zip(*points, strict=True), (axes.set_xlim, axes.set_ylim), strict=False):
        low, high = min(values), max(values)
        room = max(0.14 * (high - low), 0.05 * abs(high), 0.1)
        setter(low - room, high + room)


def _label(figure: Figure, axes: Any, labels: Sequence[str], points: Sequence[tuple[float, float]]) -> None:
    """Write each label at the first place around its point where it covers neither a point nor a label."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    dots = axes.transData.transform(np.array(points).reshape(-1, 2))
    frame = axes.get_window_extent(renderer)
    taken: list[Any] = []
    for label, point in zip(labels, points, strict=True):
        text = None
        for dx, dy, ha, va in PLACES:
            if text is not None:
                text.remove()
            text = axes.annotate(
                label, point, (dx, dy), textcoords="offset points", ha=ha, va=va, size=8.5, color=INK
            )
            box = text.get_window_extent(renderer).padded(1)
            free = not any(box.contains(x, y) for x, y in dots) and not box.count_overlaps(taken)
            if free and frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1):
                break
        taken.append(box)
