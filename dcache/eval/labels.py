"""Placement of labels in a plot so that they do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dcache.eval.canvas import GREY, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A label keeps CLEAR pixels from every point; beyond FAR points from its own point a thin line joins them.
CLEAR, FAR = 11, 10
# Candidate positions around a point, in order of preference: offset in points, horizontal and vertical
# alignment.
PLACES = (
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (6, 7, "left", "bottom"),
    (-6, 7, "right", "bottom"),
    (6, -7, "left", "top"),
    (-6, -7, "right", "top"),
    (0, 22, "center", "bottom"),
    (0, -22, "center", "top"),
    (18, 22, "left", "bottom"),
    (-18, -22, "right", "top"),
    (18, -22, "left", "top"),
    (-18, 22, "right", "bottom"),
    (0, 40, "center", "bottom"),
    (0, -40, "center", "top"),
    (18, 40, "left", "bottom"),
    (-18, -40, "right", "top"),
    (18, -40, "left", "top"),
    (-18, 40, "right", "bottom"),
    (0, 60, "center", "bottom"),
    (0, -60, "center", "top"),
    (18, 60, "left", "bottom"),
    (-18, -60, "right", "top"),
    (18, -60, "left", "top"),
    (-18, 60, "right", "bottom"),
)


def place_labels(
    figure: Figure,
    axes: Any,
    labels: Sequence[str],
    points: Sequence[tuple[float, float]],
    line: Sequence[tuple[float, float]],
) -> None:
    """Draw each label at the first candidate position where it covers no point, label or line."""
    from matplotlib.text import Text

    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    dots = axes.transData.transform(np.reshape(points, (-1, 2)))
    along = axes.transData.transform(
        [p for a, b in pairwise(line) for p in np.linspace(a, b, 40)] or np.zeros((0, 2))
    )
    frame = axes.get_window_extent(renderer)
    taken: list[Any] = []
    for label, point in zip(labels, points, strict=True):
        text = None
        for dx, dy, ha, va in PLACES:
            if text is not None:
                text.remove()
            style = {"ha": ha, "va": va, "size": 8.5, "color": INK, "textcoords": "offset points"}
            if abs(dy) > FAR:
                style["arrowprops"] = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkB": 3}
            text = axes.annotate(label, point, (dx, dy), **style)
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer).padded(1)
            free = not any(box.contains(x, y) for x, y in along) and not box.count_overlaps(taken)
            free = free and not any(box.padded(CLEAR).contains(x, y) for x, y in dots)
            if free and frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1):
                break
        taken.append(box)
