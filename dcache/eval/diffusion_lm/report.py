"""Results of an evaluation of row policies: a table, a plot of quality beside rows, a page, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcache.eval.diffusion_lm.evaluation import NONE, Measured
from dcache.eval.diffusion_lm.figures import HEADS, Figures, cells, figures_of
from dcache.eval.diffusion_lm.plot import draw
from dcache.eval.diffusion_lm.settings import RowSettings
from dcache.eval.diffusion_lm.subject import RowSubject
from dcache.eval.machine import machine, versions
from dcache.eval.plain_page import page
from dcache.eval.rows import aligned
from dcache.util.files import write, write_json


def table(rows: Sequence[Figures]) -> str:
    """The rows as text, those of one decode order below its uncached loop."""
    return aligned([HEADS, *map(cells, rows)])


def legend(subject: RowSubject) -> str:
    """The lines below the table, which explain its columns."""
    return (
        f"quality: {subject.quality} (95 % interval over prompts);\n"
        "of none: of the uncached loop in the same decode order, the row above; same tokens: equal to its\n"
        "tokens with the same seed; rows: computed, of all; steps: forwards of the model; seconds: of all\n"
        "runs, whole loops; held: keys, values and masks of a batch"
    )


def write_report(
    out: Path,
    subject: RowSubject,
    settings: RowSettings,
    measured: Sequence[Measured],
    pictures: dict[str, Path] | None = None,
) -> list[Path]:
    """Write results.json, quality.png and report.html into a folder, each atomically; the figures first.

    Args:
        out: the folder.
        subject: the model.
        settings: with the subject's choices in place of None.
        measured: of `evaluate`.
        pictures: more pictures of the page, as of `plain_page.page`.
    """
    rows = figures_of(measured, settings.seeds)
    results = write_json(out / "results.json", content_of(subject, settings, rows))
    plot = draw(rows, out / "quality.png")
    text = page(
        f"{subject.name}: what is left where rows are reused",
        f"{settings.prompts} prompts with {settings.seeds} seeds, {settings.new} tokens decoded, decoder "
        f"{settings.decoder}, temperature {settings.temperature:g}. Compare within one decode order.",
        [HEADS, *map(cells, rows)],
        [row.name == NONE for row in rows],
        {"quality and rows computed": plot, **(pictures or {})},
        legend(subject),
    )
    return [results, plot, write(out / "report.html", lambda path: path.write_text(text, encoding="utf-8"))]


def content_of(subject: RowSubject, settings: RowSettings, rows: Sequence[Figures]) -> dict[str, Any]:
    """What results.json has."""
    return {
        "format": "dcache.dlm.results",
        "version": 1,
        "model": subject.name,
        "quality": subject.quality,
        "settings": vars(settings),
        "machine": machine(),
        "versions": versions(),
        "rows": [asdict(row) for row in rows],
    }
