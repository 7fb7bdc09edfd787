"""A self-contained page of one table and its pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from dcache.eval.machine import heading, machine, versions


def page(
    title: str,
    intro: str,
    table: Sequence[Sequence[str]],
    best: Sequence[bool],
    pictures: Mapping[str, Path],
    legend: str,
) -> str:
    """The page as HTML; it loads nothing.

    Args:
        title: its heading.
        intro: what was measured.
        table: cells, headings first; the first column is aligned left.
        best: of each row of figures, whether it is set off.
        pictures: what a picture shows -> its PNG.
        legend: the lines that explain the columns.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    shown = [
        {"alt": alt, "data": base64.b64encode(path.read_bytes()).decode("ascii")}
        for alt, path in pictures.items()
    ]
    return templates.get_template("page.html").render(
        title=title,
        intro=intro,
        heads=table[0],
        rows=list(zip(table[1:], best, strict=True)),
        pictures=shown,
        legend=legend,
        machine=heading(machine(), versions()),
    )
