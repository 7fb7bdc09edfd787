"""What a report says, as plain values: the one source of the page, the Markdown and the JSON."""

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
# What the report puts beside the speedup where there is a choice, the first that was computed.
CLOSENESS = ("lpips", "psnr", "ssim")


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        folder, label, spec, call, note: as in `dcache.eval.manifest.Entry`.
        broken: what is wrong with its pictures, or "".
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
    """Something a reader has to know; `about` is a method's label, or "" for all."""

    about: str
    text: str


@dataclass(frozen=True)
class Content:
    """A report.

    Attributes:
        pipeline: name, class, steps and guidance.
        made: date and time of the report, local, to the minute.
        pictures, prompts: how many of each method, and of how many prompts.
        columns, rows: the table, the uncached pipeline first.
        closeness: the column that a plot puts beside the speedup, or "".
        notes: what a reader has to know.
        settings, machine, versions: of the run.
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
        """The first of the methods that are best in a column."""
        return next((row for row in self.rows if row.figures[column].best), None)

    def facts(self) -> list[str]:
        """What was made, in a few words each."""
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
        """Settings, machine and versions for people: title -> name -> value."""
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
        """As JSON values, with the format's name and version."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def gather(store: Store, scores: Mapping[str, Any]) -> Content:
    """Bring together what was measured and what was scored.

    Args:
        store: a run with the uncached pipeline first.
        scores: the content of its `scores.json`.
    """
    uncached = store.methods[0]
    calls = {entry.folder: store.calls(entry) for entry in store.methods}
    broken = {entry.folder: store.broken(entry) or "" for entry in store.methods}
    metrics = [Column.of(name, about) for name, about in scores["metrics"].items()]
    # Those that compare with the same thing stand together.
    metrics.sort(key=lambda metric: list(AGAINST).index(metric.against))

    def row(entry: Entry) -> Row:
        why = broken[entry.folder] or (broken[uncached.folder] and f"uncached: {broken[uncached.folder]}")
        figures = costs(calls[entry.folder], calls[uncached.folder], why)
        its = scores["methods"].get(entry.folder, {})
        figures |= {one.key: _scored(one, its.get(one.key, {}), broken[entry.folder]) for one in metrics}
        said = {key: getattr(entry, key) for key in ("folder", "label", "spec", "call", "note")}
        return Row(**said, broken=broken[entry.folder], figures=figures)

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
    """Mark the best figures of each column: of the methods that work, unless all show the same."""
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
    found, first = [], _runs(calls[store.methods[0].folder])
    for entry, row in zip(store.methods, rows, strict=True):
        found += [Note(entry.label, text) for text in _notes_on(entry, row, calls[entry.folder])]
        if entry.folder != store.methods[0].folder and _runs(calls[entry.folder]).isdisjoint(first):
            apart = "timed in another run than the uncached pipeline, so trust its speedup less"
            found.append(Note(entry.label, apart))
    found += [Note("", text) for text in (*store.manifest.notes, *_empty(scores), *scores["warnings"])]
    spread = max(unsteady(its) for its in calls.values())
    found += [Note("", text) for text in busy(spread, "seconds")]
    if not all(call["warm"] for its in calls.values() for call in timed(its)):
        found.append(Note("", "a method had no warm call: its seconds are those of a first call"))
    return found


def _runs(calls: Sequence[Mapping[str, Any]]) -> set[str]:
    """When the runs began that made these calls."""
    return {call["run"] for call in calls}


def _notes_on(entry: Entry, row: Row, calls: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [no_gain(row.broken)] if row.broken else []
    shares = [call["computed"] for call in calls if call["computed"] is not None]
    if shares and min(shares) == 1 and row.label != "uncached":
        found.append("nothing was predicted: every call computed everything")
    found += [entry.note] if entry.note else []
    return found + list(dict.fromkeys(text for call in calls for text in call["warnings"]))


def _empty(scores: Mapping[str, Any]) -> Iterator[str]:
    """Why a metric has no value of any method."""
    for name, about in scores["metrics"].items():
        its = [method.get(name, {}) for method in scores["methods"].values()]
        if all(one.get("value") is None for one in its):
            reasons = dict.fromkeys(one["why_not"] for one in its if one.get("why_not"))
            yield f"{about['title']} has no value: {'; '.join(reasons)}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)


def _shown(value: Any) -> str:
    if value is None:
        return "the pipeline's own"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={each}" for key, each in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
