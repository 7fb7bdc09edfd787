"""What was measured as Markdown, and its place in docs/kernels.md."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from entrants import NEWTON, TAYLORSEER
from measure_methods import fill

from dcache.errors import DcacheError
from dcache.eval.formatting import number, share, size
from dcache.eval.machine import heading

DOCS = Path(__file__).parents[2] / "docs" / "kernels.md"
HEADS = ("whole run", "speedup", "full step", "predicted step", "computed", "held", "peak")
SUMS = {"kernels": "", "torch references": ", off", "eager chain": ", chain"}
# Beyond this share of steps that took as long as the other kind, the figures deserve a word.
DOUBTFUL = 0.1


def sheet(parts: dict[str, dict[str, Any]]) -> str:
    """All parts, each under its heading, with the machine named."""
    lines: list[str] = []
    for part in parts.values():
        lines += [*_part(part), ""]
    return "\n".join(lines).strip()


def write_docs(parts: dict[str, dict[str, Any]], page: Path = DOCS) -> Path:
    """Put the tables between the marks of the page.

    Raises:
        DcacheError: they are of tiny models, or the page has no marks.
    """
    if any(part["settings"]["tiny"] for part in parts.values()):
        raise DcacheError("--docs takes figures of real sizes: measure without --tiny first")
    fill(page, sheet(parts))
    return page


def _part(part: dict[str, Any]) -> list[str]:
    settings, rows = part["settings"], part["rows"]
    plain = _uncached(rows)
    shown = [row for row in rows if not _is_other_sum(row["label"])]
    kernels = _kernels(rows, part["kernels"])
    return [
        f"### {part['title']}, {settings['mode']}",
        "",
        _sentence(part),
        "",
        f"| | {' | '.join(HEADS)} |",
        f"|---|{'---|' * len(HEADS)}",
        *(_line(row, plain) for row in shown),
        *(["", *kernels] if kernels else []),
        *_notes(rows),
    ]


def _sentence(part: dict[str, Any]) -> str:
    options = part["settings"]["options"]
    what = f"{options['num_inference_steps']} steps, {options['width']}x{options['height']}"
    if "num_frames" in options:
        what += f", {options['num_frames']} frames"
    calls = part["settings"]["branches"]
    step = "a step is one call of the denoiser" if calls == 1 else f"a step is {calls} calls of the denoiser"
    return (
        f"{heading(part['machine'], part['versions'])}; {part['settings']['dtype']}, random weights, {what}; "
        f"{step}. First Block Cache's threshold: {part['threshold']:.3g}."
    )


def _line(row: dict[str, Any], plain: float | None) -> str:
    if "failed" in row:
        return (
            f"| {row['label']} | not measured: {row['failed'].replace('|', '/')} |{' |' * (len(HEADS) - 1)}"
        )
    run = statistics.median(row["run_seconds"])
    cells = [
        f"{run:.2f} s",
        "-" if plain is None else f"{plain / run:.2f}x",
        _ms(row["full_ms"]),
        _ms(row["predicted_ms"]),
        share(row["computed_share"]),
        size(row["held"]),
        size(row["peak_memory"]),
    ]
    return f"| {row['label']} | {' | '.join(cells)} |"


def _kernels(rows: Sequence[dict[str, Any]], there: bool) -> list[str]:
    """The predicted step by how its sums are made; nothing where that was not measured."""
    by_label = {row["label"]: row.get("predicted_ms") for row in rows}
    used = dict(SUMS) if there else {"torch references": "", "eager chain": ", chain"}
    if f"{NEWTON}, chain" not in by_label:
        return []
    lines = [f"| predicted step | {' | '.join(used)} |", f"|---|{'---|' * len(used)}"]
    for name in (NEWTON, TAYLORSEER):
        cells = [_ms(by_label.get(f"{name}{more}")) for more in used.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    notes = []
    for row in rows:
        if row.get("mixed_up", 0) > DOUBTFUL:
            notes.append(
                f"{row['label']}: {share(row['mixed_up'])} of the steps took as long as those of the other "
                "kind, so trust its two medians less."
            )
        if "failed" not in row and row["label"] != "uncached" and row["predicted_ms"] is None:
            notes.append(f"{row['label']}: it predicted no whole step.")
    return ["", *(f"- {note}" for note in notes)] if notes else []


def _uncached(rows: Sequence[dict[str, Any]]) -> float | None:
    seconds = next((row.get("run_seconds") for row in rows if row["label"] == "uncached"), None)
    return statistics.median(seconds) if seconds else None


def _is_other_sum(label: str) -> bool:
    return label.endswith((", off", ", chain"))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{number(value, 1 if value >= 10 else 2)} ms"
