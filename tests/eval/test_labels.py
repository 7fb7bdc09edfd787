"""Labels of a plot: none covers another, and no thin line strikes through one."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.text import Text

from dcache.eval.canvas import new_figure
from dcache.eval.labels import place_labels

FIGURES = Path(__file__).parents[2] / "docs" / "demo.json"


def placed(points: list[tuple[float, float]], labels: list[str]) -> tuple[list[Any], list[Any]]:
    """The boxes of all labels, and the points of the line from each dot to the middle of its label."""
    figure = new_figure(6.4, 4.2)
    axes = figure.add_axes((0.11, 0.13, 0.86, 0.77))
    for x, y in points:
        axes.plot(x, y, "o", markersize=6)
    for values, limit in zip(zip(*points, strict=True), (axes.set_xlim, axes.set_ylim), strict=True):
        room = 0.14 * (max(values) - min(values))
        limit(min(values) - room, max(values) + room)
    place_labels(figure, axes, labels, points, [])
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [Text.get_window_extent(text, renderer) for text in axes.texts]
    dots = axes.transData.transform(points)
    lines = [
        np.linspace(dot, ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2), 200)
        if text.arrow_patch is not None
        else []
        for text, box, dot in zip(axes.texts, boxes, dots, strict=True)
    ]
    return boxes, lines


def struck(points: list[tuple[float, float]], labels: list[str]) -> list[tuple[str, str]]:
    boxes, lines = placed(points, labels)
    return [
        (labels[i], labels[j])
        for i, box in enumerate(boxes)
        for j, line in enumerate(lines)
        if i != j and any(box.contains(x, y) for x, y in line)
    ]


def test_no_line_strikes_through_a_label_of_the_demo() -> None:
    methods = json.loads(FIGURES.read_text())["methods"]
    points = [(method["speedup"], fmean(method["psnr"])) for method in methods]
    labels = [method["label"] for method in methods]
    assert struck(points, labels) == []
    boxes, _ = placed(points, labels)
    assert all(not box.count_overlaps(boxes[:i]) for i, box in enumerate(boxes))
