"""Placement of labels in a plot so that they do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcache.eval.canvas import GREY, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A label keeps CLEAR pixels from every point; beyond FAR points from its own point a thin line joins them.
CLEAR, FAR = 11, 10
Place = tuple[float, float, str, str]
# Candidate positions around a point, in order of preference: offset in points, horizontal and vertical
# alignment.
PLACES: tuple[Place, ...] = (
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
    (44, 22, "left", "bottom"),
    (44, -22, "left", "top"),
    (-44, -22, "right", "top"),
    (-44, 22, "right", "bottom"),
    (44, 48, "left", "bottom"),
    (44, -48, "left", "top"),
    (-44, -48, "right", "top"),
    (-44, 48, "right", "bottom"),
    (70, 34, "left", "bottom"),
    (70, -34, "left", "top"),
    (-70, -34, "right", "top"),
    (-70, 34, "right", "bottom"),
    (70, 80, "left", "bottom"),
    (70, -80, "left", "top"),
    (-70, -80, "right", "top"),
    (-70, 80, "right", "bottom"),
)


def place_labels(
    figure: Figure,
    axes: Any,
    labels: Sequence[str],
    points: Sequence[tuple[float, float]],
    line: Sequence[tuple[float, float]],
) -> None:
    """Draw each label at the first candidate position where it covers no point, label or line.

    The thin line of a label crosses no other label either. Where no position is free, the one with the fewest
    faults is taken.
    """
    from matplotlib.text import Text

    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    dots = axes.transData.transform(np.reshape(points, (-1, 2)))
    along = axes.transData.transform(
        [p for a, b in pairwise(line) for p in np.linspace(a, b, 40)] or np.zeros((0, 2))
    )
    frame = axes.get_window_extent(renderer)
    taken: list[Any] = []
    leaders: list[NDArray[np.float64]] = []
    for label, point, dot in zip(labels, points, dots, strict=True):
        tried: list[tuple[float, int, Place, Any, Any]] = []
        for place in PLACES:
            text = _annotate(axes, label, point, place)
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer).padded(1)
            text.remove()
            leader = _leader(dot, box) if abs(place[1]) > FAR else np.zeros((0, 2))
            faults = 4 * (box.count_overlaps(taken) + (not frame.contains(box.x0, box.y0)))
            faults += 4 * (not frame.contains(box.x1, box.y1))
            faults += 2 * sum(any(other.contains(x, y) for x, y in leader) for other in taken)
            faults += 2 * sum(any(box.contains(x, y) for x, y in other) for other in leaders)
            faults += sum(box.padded(CLEAR).contains(x, y) for x, y in dots)
            faults += any(box.contains(x, y) for x, y in along)
            tried.append((faults, len(tried), place, box, leader))
            if not faults:
                break
        _, _, place, box, leader = min(tried, key=lambda trial: trial[:2])
        _annotate(axes, label, point, place)
        taken.append(box)
        leaders.append(leader)


def _annotate(axes: Any, label: str, point: tuple[float, float], place: Place) -> Any:
    """Draw a label; one that is far from its point gets a line to it."""
    dx, dy, ha, va = place
    style = {"ha": ha, "va": va, "size": 8.5, "color": INK, "textcoords": "offset points"}
    if abs(dy) > FAR:
        style["arrowprops"] = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkB": 3}
    return axes.annotate(label, point, (dx, dy), **style)


def _leader(dot: NDArray[np.float64], box: Any) -> NDArray[np.float64]:
    """(N, 2) points of the line from a dot to the middle of its label, without those under the label."""
    middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    return np.array([p for p in np.linspace(dot, middle, 40) if not box.contains(*p)]).reshape(-1, 2)
