"""Content of a report as plain values, from which page, Markdown and JSON are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from dcache.eval.formatting import busy, no_gain
from dcache.eval.manifest import Entry
from dcache.eval.report.costs import COSTS, costs, timed, unsteady
from dcache.eval.report.figure import AGAINST, Column, Figure
from dcache.eval.store import Store

FORMAT, VERSION = "dcache.eval.report", 1
# Metrics to show beside the speedup, in order of preference.
CLOSENESS = ("lpips", "psnr", "ssim")


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        folder, label, spec, call, note: as in `dcache.eval.manifest.Entry`.
        broken: what is wrong with its pictures; "" if nothing is.
        figures: column -> figure.
    """

    folder: str
    label: str
    spec: str
    call: str
    note: str
    broken: str
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Note:
    """A remark for readers; `about` is a method's label, or "" for all methods."""

    about: str
    text: str


@dataclass(frozen=True)
class Content:
    """A report.

    Attributes:
        pipeline: name, class, steps and guidance.
        made: local date and time of the report, to the minute.
        pictures, prompts: number of pictures of each method, and of prompts.
        columns, rows: the table, the uncached pipeline first.
        closeness: the fidelity column that is plotted against speedup, or "".
        notes: remarks for readers.
        settings, machine, versions: those of the run.
    """

    pipeline: dict[str, Any]
    made: str
    pictures: int
    prompts: int
    columns: list[Column]
    rows: list[Row]
    closeness: str
    notes: list[Note]
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]

    def best(self, column: str) -> Row | None:
        """The best method of a column, the first of equal ones; None if no figure is marked."""
        return next((row for row in self.rows if row.figures[column].best), None)

    def facts(self) -> list[str]:
        """Facts of the run as short texts: pictures, seeds, steps, guidance, size, batches."""
        seed, batch = self.settings["seed"], self.settings["batch_size"]
        sides = [str(self.settings[side]) for side in ("width", "height") if self.settings[side]]
        steps, guidance = self.pipeline.get("steps"), self.pipeline.get("guidance")
        what = "clip" if self.pipeline.get("kind") == "video" else "picture"
        return [
            f"{_many(self.pictures, what)} of {_many(self.prompts, 'prompt')}",
            f"seeds {seed} to {seed + self.pictures - 1}",
            *([f"{steps} steps"] if steps is not None else []),
            *([f"guidance {guidance:g}"] if guidance is not None else []),
            *(["×".join(sides)] if sides else []),
            f"batches of {batch}, {self.settings['dtype']}, {self.settings['device']}",
        ]

    def tables(self) -> dict[str, dict[str, str]]:
        """Settings, machine and versions as text: title -> name -> value."""
        tables = {
            "Settings": {**{f"pipeline {k}": v for k, v in self.pipeline.items()}, **self.settings},
            "Machine": self.machine,
            "Versions": self.versions,
        }
        return {
            title: {name.replace("_", " "): _shown(value) for name, value in table.items()}
            for title, table in tables.items()
        }

    def plain(self) -> dict[str, Any]:
        """All fields as JSON values, with the format's name and version."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def gather(store: Store, scores: Mapping[str, Any]) -> Content:
    """The content of the report of a run.

    Args:
        store: a finished run, the uncached pipeline first.
        scores: the content of its `scores.json`.
    """
    uncached = store.methods[0]
    calls = {entry.folder: store.calls(entry) for entry in store.methods}
    broken = {entry.folder: store.broken(entry) or "" for entry in store.methods}
    metrics = [Column.of(name, about) for name, about in scores["metrics"].items()]
    # Metrics that compare with the same pictures are adjacent.
    metrics.sort(key=lambda metric: list(AGAINST).index(metric.against))

    def row(entry: Entry) -> Row:
        why = broken[entry.folder] or (broken[uncached.folder] and f"uncached: {broken[uncached.folder]}")
        figures = costs(calls[entry.folder], calls[uncached.folder], why)
        values = scores["methods"].get(entry.folder, {})
        figures |= {
            column.key: _scored(column, values.get(column.key, {}), broken[entry.folder])
            for column in metrics
        }
        names = {key: getattr(entry, key) for key in ("folder", "label", "spec", "call", "note")}
        return Row(**names, broken=broken[entry.folder], figures=figures)

    rows = [row(entry) for entry in store.methods]
    columns = [c for c in (*COSTS, *metrics) if any(row.figures[c.key].value is not None for row in rows)]
    keys = [column.key for column in columns]
    return Content(
        pipeline=store.manifest.pipeline,
        made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        pictures=len(store.items),
        prompts=len(store.manifest.prompts),
        columns=columns,
        rows=_with_best(columns, rows),
        closeness=next((key for key in (*CLOSENESS, *(m.key for m in metrics)) if key in keys), ""),
        notes=_notes(store, calls, rows, scores),
        settings=store.settings,
        machine=store.manifest.machine,
        versions=store.manifest.versions,
    )


def _scored(column: Column, score: Mapping[str, Any], broken: str) -> Figure:
    if broken or score.get("value") is None:
        return Figure(why_not=broken or score.get("why_not") or "not scored")
    return Figure.of(column, score["value"], score.get("low"), score.get("high"))


def _with_best(columns: Sequence[Column], rows: Sequence[Row]) -> list[Row]:
    """Mark the best figures of each column among sound methods, unless all figures are equal."""
    best: dict[str, set[str]] = {}
    for column in columns:
        able = {r.folder: r.figures[column.key] for r in rows[1:] if not r.broken}
        shown = {folder: figure for folder, figure in able.items() if figure.value is not None}
        if column.better and len({figure.text for figure in shown.values()}) > 1:
            sign = 1 if column.better == "higher" else -1
            winner = max(shown.values(), key=lambda figure: sign * (figure.value or 0.0))
            best[column.key] = {folder for folder, figure in shown.items() if figure.text == winner.text}
    return [
        replace(
            row,
            figures={
                column.key: replace(row.figures[column.key], best=row.folder in best.get(column.key, ()))
                for column in columns
            },
        )
        for row in rows
    ]


def _notes(
    store: Store, calls: Mapping[str, list[dict[str, Any]]], rows: Sequence[Row], scores: Mapping[str, Any]
) -> list[Note]:
    notes, first = [], _runs(calls[store.methods[0].folder])
    for entry, row in zip(store.methods, rows, strict=True):
        notes += [Note(entry.label, text) for text in _notes_on(entry, row, calls[entry.folder])]
        if entry.folder != store.methods[0].folder and _runs(calls[entry.folder]).isdisjoint(first):
            apart = "timed in another run than the uncached pipeline, so its speedup is less reliable"
            notes.append(Note(entry.label, apart))
    notes += [Note("", text) for text in (*store.manifest.notes, *_empty(scores), *scores["warnings"])]
    spread = max(unsteady(records) for records in calls.values())
    notes += [Note("", text) for text in busy(spread, "seconds")]
    if not all(call["warm"] for records in calls.values() for call in timed(records)):
        notes.append(Note("", "a method had no warm call: its seconds are those of a first call"))
    return notes


def _runs(calls: Sequence[Mapping[str, Any]]) -> set[str]:
    """Start times of the runs that made these calls."""
    return {call["run"] for call in calls}


def _notes_on(entry: Entry, row: Row, calls: Sequence[Mapping[str, Any]]) -> list[str]:
    texts = [no_gain(row.broken)] if row.broken else []
    shares = [call["computed"] for call in calls if call["computed"] is not None]
    if shares and min(shares) == 1 and row.label != "uncached":
        texts.append("nothing was predicted: every call computed everything")
    texts += [entry.note] if entry.note else []
    return texts + list(dict.fromkeys(text for call in calls for text in call["warnings"]))


def _empty(scores: Mapping[str, Any]) -> Iterator[str]:
    """A text for each metric without any value, with the reasons."""
    for name, about in scores["metrics"].items():
        values = [method.get(name, {}) for method in scores["methods"].values()]
        if all(value.get("value") is None for value in values):
            reasons = dict.fromkeys(value["why_not"] for value in values if value.get("why_not"))
            yield f"{about['title']} has no value: {'; '.join(reasons)}"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count != 1)


def _shown(value: Any) -> str:
    if value is None:
        return "the pipeline's default"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={each}" for key, each in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
