"""The tables of both benches, as text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from dcache.demo.policies.figures import Difference, Figures
from dcache.demo.policies.open_loop import Row
from dcache.demo.policies.tasks import Task

OPEN = ("setting", "calls", "computed", "error", "to expert", "p50 ms", "p95", "p99", "max", "speedup")
CLOSED = ("setting", "episodes", "success", "difference", "progress", "difference", "chunks/s", "speedup")


def open_loop_table(rows: Sequence[Row], task: Task, markdown: bool = False) -> str:
    """Action errors and latencies of settings."""
    digits = 2 if task.unit == "px" else 4
    cells = [
        (
            row.setting,
            str(row.evaluations),
            f"{row.computed:.3f}",
            f"{row.error:.{digits}f}",
            f"{row.expert_error:.{digits}f}",
            *([f"{value:.1f}" for value in row.milliseconds] or ["-"] * 4),
            _ratio(row.speedup),
        )
        for row in rows
    ]
    return _table(OPEN, cells, markdown)


def open_loop_legend(task: Task, observations: int, timed: int) -> str:
    """The lines below the table."""
    return (
        f"error: rms of the executed actions ({task.unit}) to 100 evaluations of the same sampler from the\n"
        f"  same noise, {observations} observations; to expert: to what the demonstration did; computed:\n"
        f"  share of site events; ms: CPU milliseconds of a chunk, batch 1, {timed} chunks, settings in\n"
        "  turns; speedup: median of the ratios to the first setting"
    )


def closed_loop_table(rows: Sequence[Figures], markdown: bool = False) -> str:
    """Success and progress of settings."""
    cells = [
        (
            row.setting,
            str(row.episodes),
            f"{row.success:.1%}",
            _difference(row.difference, 100),
            f"{row.progress:.3f}",
            _difference(row.progress_difference, 1),
            f"{row.chunks_per_second:.1f}",
            _ratio(row.speedup),
        )
        for row in rows
    ]
    return _table(CLOSED, cells, markdown)


def closed_loop_legend(task: Task) -> str:
    """The lines below the table."""
    progress = "coverage" if task.unit == "px" else "success"
    return (
        "difference: to the first setting on the same episodes, with its 95 % interval (bootstrap);\n"
        f"  success in points; progress: mean best {progress}; chunks/s: by CPU seconds of batches"
    )


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _difference(value: Difference | None, scale: float) -> str:
    if value is None:
        return "-"
    digits = 1 if scale > 1 else 3
    mean, low, high = (f"{number * scale:+.{digits}f}" for number in value)
    return f"{mean} [{low}, {high}]"


def _table(head: Sequence[str], cells: Sequence[Sequence[str]], markdown: bool) -> str:
    if markdown:
        lines = [f"| {' | '.join(row)} |" for row in (head, *cells)]
        lines.insert(1, "|---" * len(head) + "|")
        return "\n".join(lines)
    widths = [max(len(row[i]) for row in (head, *cells)) for i in range(len(head))]
    lines = []
    for row in (head, *cells):
        first = row[0].ljust(widths[0])
        lines.append(
            "  ".join([first, *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        )
    return "\n".join(lines)
