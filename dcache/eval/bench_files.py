"""Files of a comparison: figures as JSON, a plot, and the schedule of each method."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcache.eval.bench import Bench
from dcache.eval.entries import BenchEntry
from dcache.eval.measured import Measured
from dcache.eval.rows import Row
from dcache.util.files import make_folder, write_json

FORMAT = "dcache.bench"


def write_bench(done: Bench, out: Path) -> list[Path]:
    """Write results.json, the schedules and speed-fidelity.png, each atomically."""
    from dcache.eval.figures import draw_speed_fidelity

    make_folder(out)
    figures = write_json(out / "results.json", results(done))
    write_schedules(done, out)
    of = "clip" if done.subject.kind == "video" else "picture"
    return [figures, draw_speed_fidelity(out / "speed-fidelity.png", done.rows, of)]


def write_schedules(done: Bench, out: Path) -> None:
    """Write the trace of each method into the folder `schedules`."""
    make_folder(out / "schedules")
    for measured in done.methods:
        if measured.last.trace:
            measured.last.trace.save(out / _schedule_name(measured.contestant))


def results(done: Bench) -> dict[str, Any]:
    """All figures, as plain JSON values."""
    subject, uncached = done.subject, done.uncached
    return {
        "format": FORMAT,
        "version": 1,
        "pipeline": {
            "name": subject.name,
            "class": type(subject.pipe).__name__,
            "steps": subject.steps,
            "guidance": subject.guidance,
            "options": {key: str(value) for key, value in subject.options.items()},
        },
        "machine": done.machine,
        "versions": done.versions,
        "prompts": [
            {"text": text, "seed": seed} for text, seed in zip(done.prompts, done.seeds, strict=True)
        ],
        "uncached": {
            "seconds": uncached.median,
            "denoiser_seconds": uncached.denoiser_median,
            "all_seconds": uncached.seconds,
            "flops": uncached.inspected.cost.flops,
            "denoiser_flops": uncached.inspected.cost.denoiser_flops,
            "peak_memory": uncached.peak_memory,
        },
        "methods": [_entry(measured, row) for measured, row in zip(done.methods, done.rows, strict=True)],
        "unrestored": done.unrestored,
    }


def _entry(measured: Measured, row: Row) -> dict[str, Any]:
    stats = measured.last.stats
    return {
        **asdict(row),
        "mean_psnr": row.mean_psnr,
        "mean_ssim": row.mean_ssim,
        "all_seconds": measured.seconds,
        "first_seconds": measured.first,
        "spec": measured.contestant.spec,
        "digest": measured.contestant.digest,
        "note": measured.contestant.note,
        "schedule": _schedule_name(measured.contestant) if measured.last.trace else None,
        "stats": {k: v for k, v in asdict(stats).items() if k not in ("components", "bytes_now")}
        if stats
        else None,
        "warnings": measured.warnings,
    }


def _schedule_name(contestant: BenchEntry) -> str:
    return f"schedules/{contestant.file_name}.json"
