"""The report stage: `report.html` (self-contained), `report.md` and `report.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.util.files import write, write_json

if TYPE_CHECKING:
    from dcache.eval.store import Store

__all__ = ["report"]


def report(store: Store, scores: Mapping[str, Any]) -> list[Path]:
    """Write the report of a run into its folder.

    Args:
        store: a finished run, the uncached pipeline first.
        scores: the content of its `scores.json`.

    Returns:
        `report.html`, `report.md` and `report.json`.

    Raises:
        DcacheError: a picture is missing or damaged, or a file cannot be written.
    """
    from dcache.eval.report.content import gather
    from dcache.eval.report.markdown import markdown
    from dcache.eval.report.page import page
    from dcache.eval.report.pictures import gallery

    content = gather(store, scores)
    traces = {entry.folder: store.schedule(entry) for entry in store.methods}
    schedules = {folder: schedule for folder, schedule in traces.items() if schedule is not None}
    html = page(content, gallery(store), schedules, scores)
    return [
        write(store.folder / "report.html", lambda path: path.write_text(html, encoding="utf-8")),
        write(store.folder / "report.md", lambda path: path.write_text(markdown(content), encoding="utf-8")),
        write_json(store.folder / "report.json", content.plain()),
    ]
