"""`dcache demo`: measure methods on a shipped model, and write the results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dcache.demo.settings import Settings, default_settings, require_packages
from dcache.demo.shipped import shipped_schedules
from dcache.eval.bench import Bench, bench
from dcache.eval.bench_files import results, write_schedules
from dcache.eval.fidelity import to_uint8
from dcache.eval.specs import MethodEntry, parse
from dcache.eval.subject import load
from dcache.util.files import make_folder, write_json

FORMAT = "dcache.demo"


@dataclass(frozen=True)
class Report:
    """A finished demonstration.

    Attributes:
        settings: its settings.
        bench: the comparison.
        judged: heading -> values of a metric of the demo, the uncached pipeline first; None for broken
            output.
        seconds: duration of the whole demonstration.
    """

    settings: Settings
    bench: Bench
    judged: dict[str, list[float | None]] = field(default_factory=dict)
    seconds: float = 0.0


def run(settings: Settings, progress: Callable[[int, str], None] = lambda _turn, _label: None) -> Report:
    """Measure methods, compare them with the uncached output, and compute the demo's metrics.

    Args:
        settings: settings of the demonstration.
        progress: called with round (0 is the warm-up) and label before each call.

    Raises:
        DcacheError: a package is missing, a method is unknown or does not fit, or the uncached output is
            broken.
    """
    began = time.perf_counter()
    require_packages(settings.video)
    shown = task_of(settings)
    contestants = methods_of(settings)
    subject = load(shown.NAME, steps=settings.steps, guidance=settings.guidance, device="cpu")
    done = bench(
        subject,
        contestants,
        shown.prompts(settings.prompts),
        seed=settings.seed,
        repeats=settings.repeats,
        progress=progress,
    )
    return Report(settings, done, shown.judged(done), time.perf_counter() - began)


def methods_of(settings: Settings) -> list[MethodEntry]:
    """The methods to compare: those of the settings, and with the default ones the shipped schedules.

    Raises:
        DcacheError: a method is unknown, or its options are wrong.
    """
    shown = task_of(settings)
    methods = parse(settings.methods, shown.coefficients())
    if settings.methods == default_settings(settings.video).methods:
        methods += shipped_schedules(shown.schedules(), settings.steps, settings.guidance)
    return methods


def write_report(report: Report) -> list[Path]:
    """Write results.json, schedules and pictures into the settings' folder, each atomically."""
    settings, done = report.settings, report.bench
    out = make_folder(settings.out)
    content = results(done) | {
        "format": FORMAT,
        "settings": {**asdict(settings), "out": str(settings.out)},
        "judged": report.judged,
        "total_seconds": report.seconds,
    }
    figures = write_json(out / "results.json", content)
    write_schedules(done, out)
    outputs = [to_uint8(measured.last.output) for measured in [done.uncached, *done.methods]]
    drawn: list[Path] = task_of(settings).draw(out, done, outputs)
    return [*drawn, figures]


def task_of(settings: Settings) -> Any:
    """The module of the shipped model, with its name, prompts, metrics and drawings."""
    if settings.video:
        from dcache.demo.video import task as video

        return video
    from dcache.demo import task as pictures

    return pictures
