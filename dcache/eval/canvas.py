"""Common parts of all plots: colours, resolution, figures without a display, atomic saving."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dcache.util.files import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours of text, secondary text, data, faint data, grid lines.
INK, GREY, ACCENT, FAINT, GRID = "#1f2430", "#6b7280", "#1d6fd1", "#dbe6f4", "#e5e7eb"
DPI = 160


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG.

    Raises:
        DcacheError: the file cannot be written.
    """
    return write(path, lambda temporary: figure.savefig(temporary, dpi=DPI, facecolor="white"))
