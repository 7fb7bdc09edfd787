"""`dcache demo`: measure methods on the shipped model, and write what was found."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.demo.fidelity import broken, to_uint8
from dcache.demo.files import write_json
from dcache.demo.measure import Call, Measured, measure
from dcache.demo.pictures import demo_captions
from dcache.demo.pipeline import call_options, load_pipeline
from dcache.demo.report import Row, machine, row, versions
from dcache.demo.settings import Settings, require_packages
from dcache.demo.specs import Choice, parse
from dcache.errors import DcacheError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "dcache.demo"


@dataclass(frozen=True)
class Report:
    """A finished demonstration. `rows` belong to `methods`, in the same order."""

    settings: Settings
    captions: list[str]
    uncached: Measured
    methods: list[Measured]
    rows: list[Row]
    machine: dict[str, Any]
    versions: dict[str, str]
    seconds: float


def run(settings: Settings, tell: Callable[[int, str], None] = lambda _turn, _label: None) -> Report:
    """Measure, and compare with the uncached pictures.

    Args:
        settings: what was asked for.
        tell: called with round (0 is the warm-up) and label before each call.

    Raises:
        DcacheError: a package is missing, a method is unknown or does not fit, or the uncached pictures are
            broken.
    """
    began = time.perf_counter()
    require_packages()
    choices = parse(settings.methods)
    pipe = load_pipeline()
    captions = [caption.text for caption in demo_captions(settings.prompts)]
    return compare(pipe, captions, _call(pipe, captions, settings), choices, settings, tell, began)


def compare(
    pipe: Any,
    captions: list[str],
    call: Call,
    choices: list[Choice],
    settings: Settings,
    tell: Callable[[int, str], None],
    began: float,
) -> Report:
    """Measure the methods on a loaded pipeline; `began` is when the demonstration did, by `perf_counter`.

    Raises:
        DcacheError: a method does not fit, or the uncached pictures are broken.
    """
    hardware = machine()
    contestants = measure(pipe, call, choices, settings.repeats, tell)
    uncached, methods = contestants[0], contestants[1:]
    if problem := broken(uncached.pictures):
        raise DcacheError(f"without caching {problem}: there is nothing to compare with. Try more --steps.")
    rows = [row(one, uncached) for one in methods]
    seconds = time.perf_counter() - began
    return Report(settings, captions, uncached, methods, rows, hardware, versions(), seconds)


def write_report(report: Report) -> list[Path]:
    """Write schedules, figures and results.json into the settings' folder, each whole or not at all."""
    from dcache.demo.figures import draw_grid, draw_speed_fidelity

    out = write_schedules(report)
    columns = [to_uint8(one.pictures) for one in [report.uncached, *report.methods]]
    return [
        draw_grid(out / "grid.png", columns, report.captions, report.rows),
        draw_speed_fidelity(out / "speed-fidelity.png", report.rows),
        write_json(out / "results.json", results(report)),
    ]


def write_schedules(report: Report) -> Path:
    """Write what each method did into `schedules`; return the settings' folder."""
    out = make_folder(report.settings.out)
    make_folder(out / "schedules")
    for one in report.methods:
        if one.trace:
            one.trace.save(out / _schedule_name(one.choice))
    return out


def make_folder(path: Path) -> Path:
    """Create the folder if it is not there.

    Raises:
        DcacheError: it cannot be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DcacheError(f"cannot create the folder {path}: {error.strerror}") from None
    return path


def results(report: Report) -> dict[str, Any]:
    """All figures, for results.json."""
    settings, uncached = report.settings, report.uncached
    return {
        "format": FORMAT,
        "version": 1,
        "settings": {**asdict(settings), "out": str(settings.out)},
        "machine": report.machine,
        "versions": report.versions,
        "total_seconds": report.seconds,
        "pictures": [{"caption": c, "seed": settings.seed + i} for i, c in enumerate(report.captions)],
        "uncached": {
            "seconds": uncached.median,
            "denoiser_seconds": uncached.denoiser_median,
            "all_seconds": uncached.seconds,
        },
        "methods": [_entry(one, its) for one, its in zip(report.methods, report.rows, strict=True)],
    }


def _entry(one: Measured, its: Row) -> dict[str, Any]:
    stats = {k: v for k, v in asdict(one.stats).items() if k not in ("components", "bytes_now")}
    return {
        **asdict(its),
        "mean_psnr": its.mean_psnr,
        "all_seconds": one.seconds,
        "spec": one.choice.spec,
        "schedule": _schedule_name(one.choice),
        "stats": stats,
        "warnings": one.warnings,
    }


def _schedule_name(choice: Choice) -> str:
    return f"schedules/{choice.file_name}.json"


def _call(pipe: Any, captions: list[str], settings: Settings) -> Call:
    options = {
        **call_options(),
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "output_type": "np",
    }

    def call() -> NDArray[np.float32]:
        import torch

        noise = [torch.Generator().manual_seed(settings.seed + i) for i in range(len(captions))]
        pictures: NDArray[np.float32] = pipe(captions, generator=noise, **options).images
        return pictures

    return call
