"""What a comparison leaves in a folder: figures as JSON, a plot, the schedule of each method."""

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
    """Write results.json, speed-fidelity.png and the schedules, each whole or not at all."""
    from dcache.eval.figures import draw_speed_fidelity

    make_folder(out)
    write_schedules(done, out)
    of = "clip" if done.subject.kind == "video" else "picture"
    return [
        draw_speed_fidelity(out / "speed-fidelity.png", done.rows, of),
        write_json(out / "results.json", results(done)),
    ]


def write_schedules(done: Bench, out: Path) -> None:
    """Write what each method did into the folder `schedules`."""
    make_folder(out / "schedules")
    for one in done.methods:
        if one.last.trace:
            one.last.trace.save(out / _schedule_name(one.contestant))


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
        "methods": [_entry(one, its) for one, its in zip(done.methods, done.rows, strict=True)],
        "unrestored": done.unrestored,
    }


def _entry(one: Measured, its: Row) -> dict[str, Any]:
    stats = one.last.stats
    return {
        **asdict(its),
        "mean_psnr": its.mean_psnr,
        "mean_ssim": its.mean_ssim,
        "all_seconds": one.seconds,
        "spec": one.contestant.spec,
        "digest": one.contestant.digest,
        "note": one.contestant.note,
        "schedule": _schedule_name(one.contestant) if one.last.trace else None,
        "stats": {k: v for k, v in asdict(stats).items() if k not in ("components", "bytes_now")}
        if stats
        else None,
        "warnings": one.warnings,
    }


def _schedule_name(contestant: BenchEntry) -> str:
    return f"schedules/{contestant.file_name}.json"
