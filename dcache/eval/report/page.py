"""The report as one self-contained HTML file, without network access or other files."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from dcache.eval.images import MILLISECONDS
from dcache.eval.machine import heading as machine_line
from dcache.eval.report.content import Content, Row
from dcache.eval.report.figure import AGAINST, Column
from dcache.eval.report.pictures import Gallery
from dcache.eval.schedules import Panel, heading, panels
from dcache.schedule import Schedule

HERE = Path(__file__).parent
# Evaluations between two axis labels of a schedule.
TICK = 5


def page(
    content: Content, gallery: Gallery, schedules: dict[str, Schedule], scores: Mapping[str, Any]
) -> str:
    """The text of `report.html`.

    Args:
        content: the content of the report.
        gallery: the embedded pictures.
        schedules: method folder -> trace, for methods that have one.
        scores: the content of `scores.json`, for the value of each shown picture.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    columns = {column.key: column for column in content.columns}
    shown = [(row, schedules[row.folder]) for row in content.rows if row.folder in schedules]
    drawings = [(row, heading(schedule), panels(schedule)) for row, schedule in shown]
    names = [len(strip.name) for *_, tables in drawings for table in tables for strip in table.strips]
    return templates.get_template("page.html").render(
        content=content,
        columns=columns,
        machine=machine_line(content.machine, content.versions),
        highlights=_highlights(content, columns),
        spreads={key: any(row.figures[key].spread for row in content.rows) for key in columns},
        groups=[
            (AGAINST[against], len(list(members)))
            for against, members in groupby(c.against for c in content.columns)
        ],
        gallery=gallery,
        each=[_each(content, scores, row, columns) for row in content.rows],
        schedules=drawings,
        longest=max(names, default=0),
        drawn=drawn,
        ticks=lambda panel: range(0, len(panel.strips[0].cells), TICK),
        gallery_data={"frames": gallery.frames, "milliseconds": MILLISECONDS},
        data=content.plain(),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        js=(HERE / "page.js").read_text(encoding="utf-8"),
    )


def drawn(panel: Panel, computed: bool) -> str:
    """The computed (or predicted) cells of a panel as an SVG path, in units of steps and rows."""
    return "".join(
        f"M{i} {j}h1v1h-1z"
        for j, strip in enumerate(panel.strips)
        for i, cell in enumerate(strip.cells)
        if cell == computed
    )


def _highlights(content: Content, columns: Mapping[str, Column]) -> list[tuple[str, Row, list[str]]]:
    """The fastest method and the most faithful one, as (title, row, texts of both figures)."""
    keys = [key for key in ("speedup", content.closeness) if key in columns]
    highlights = []
    for key in keys:
        if row := content.best(key):
            title = "fastest" if key == "speedup" else f"best {columns[key].title}"
            order = sorted(keys, key=lambda other: other != key)
            highlights.append((title, row, [f"{row.figures[k].text} {columns[k].title}" for k in order]))
    return highlights


def _each(content: Content, scores: Mapping[str, Any], row: Row, columns: Mapping[str, Column]) -> list[str]:
    """The fidelity of each picture of a method as text; empty if there are no values by picture."""
    each = scores["methods"].get(row.folder, {}).get(content.closeness, {}).get("each")
    if not each or row.broken or row is content.rows[0]:
        return []
    return [columns[content.closeness].text(value) for value in each]
