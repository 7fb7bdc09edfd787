"""The plot of an evaluation: quality with its interval beside the rows that were computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcache.eval.canvas import ACCENT, GREY, GRID, new_figure, save
from dcache.eval.diffusion_lm.evaluation import NONE
from dcache.eval.diffusion_lm.figures import Figures, cells

# Inches of a line, and of what is above and below all lines.
LINE, MARGIN, BELOW = 0.27, 0.7, 0.55


def draw(rows: Sequence[Figures], path: Path) -> Path:
    """Save the plot, a line a policy.

    Uncached loops are grey; the policies of a decode order lie on a grey line at their loop's quality.
    """
    count = len(rows)
    height = MARGIN + LINE * count
    figure = new_figure(9, height)
    low, tall = BELOW / height, LINE * count / height
    quality, share = figure.add_axes((0.29, low, 0.38, tall)), figure.add_axes((0.7, low, 0.28, tall))
    _loops(quality, rows)
    for at, row in enumerate(rows):
        colour = GREY if row.name == NONE else ACCENT
        if row.low is not None and row.high is not None:
            quality.plot([row.low, row.high], [at, at], color=colour, linewidth=1.5, zorder=2)
        quality.plot(row.quality, at, "o", color=colour, markersize=4.5, zorder=3)
        share.barh(at, 100 * row.rows, color=colour, height=0.6)
    _scales(quality, "quality", [cells(row)[0] for row in rows])
    _scales(share, "rows computed, %", [""] * count)
    quality.set_xlim(-0.02, 1.02)
    return save(figure, path)


def _loops(axes: Any, rows: Sequence[Figures]) -> None:
    """A line at each uncached loop's quality, along the policies of its decode order."""
    for row in rows:
        if row.name == NONE:
            places = [at for at, other in enumerate(rows) if other.order == row.order]
            ends = [places[0] - 0.4, places[-1] + 0.4]
            axes.plot([row.quality] * 2, ends, color=GREY, linewidth=0.8, zorder=1)


def _scales(axes: Any, label: str, names: list[str]) -> None:
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="both", labelsize=8, length=0)
    axes.set_xlabel(label, fontsize=9)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
