"""`dcache demo --video`: measure methods on the shipped video model, and write what was found."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.demo.fidelity import to_uint8
from dcache.demo.files import write_json
from dcache.demo.measure import Call
from dcache.demo.report import Row
from dcache.demo.run import Report, compare, results, write_schedules
from dcache.demo.settings import Settings, require_packages
from dcache.demo.specs import parse
from dcache.demo.video.clips import FRAMES, demo_captions
from dcache.demo.video.fidelity import as_clips, flicker
from dcache.demo.video.pipeline import GUIDANCE, STEPS, call_options, load_pipeline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "dcache.demo.video"
METHODS = (
    "default;"
    "interval:interval=3;"
    "newton:interval=4;"
    "taylorseer:interval=4,order=1,lite=true;"
    "fbcache:threshold=0.1"
)


def settings() -> Settings:
    """What `dcache demo --video` does unless it is told otherwise."""
    return replace(
        Settings(), out=Path("demo-out/video"), steps=STEPS, methods=METHODS, guidance=GUIDANCE, repeats=2
    )


def run(settings: Settings, tell: Callable[[int, str], None] = lambda _turn, _label: None) -> Report:
    """Measure, and compare with the uncached clips, frame by frame.

    Args:
        settings: what was asked for; one clip for each prompt.
        tell: called with round (0 is the warm-up) and label before each call.

    Returns:
        The report; its pictures are the frames of all clips, one clip after another.

    Raises:
        DcacheError: a package is missing, a method is unknown or does not fit, or the uncached frames are
            broken.
    """
    began = time.perf_counter()
    require_packages()
    choices = parse(settings.methods, numbers=None)
    pipe = load_pipeline()
    captions = [caption.text for caption in demo_captions(settings.prompts)]
    return compare(pipe, captions, _call(pipe, captions, settings), choices, settings, tell, began)


def columns(report: Report) -> list[NDArray[np.uint8]]:
    """The clips (N, 9, 32, 32, 3) of the uncached pipeline, then of each method."""
    return [as_clips(to_uint8(one.pictures)) for one in [report.uncached, *report.methods]]


def flickers(report: Report) -> list[float | None]:
    """The flicker of each method's clips against the uncached ones; None where they are broken."""
    first, *others = columns(report)
    pairs = zip(others, report.rows, strict=True)
    return [None if its.broken else flicker(clips, first) for clips, its in pairs]


def write_report(report: Report) -> list[Path]:
    """Write schedules, GIFs, figures and results.json into the settings' folder, each whole or not at all."""
    from dcache.demo.figures import draw_speed_fidelity
    from dcache.demo.video.animate import draw_contact_sheet, draw_gif

    out = write_schedules(report)
    clips = columns(report)
    titles = ["uncached", *map(_title, report.rows)]
    return [
        draw_gif(out / "clips.gif", clips, titles, report.captions),
        draw_gif(out / "pair.gif", clips[:2], titles[:2], report.captions),
        draw_contact_sheet(out / "contact.png", clips, titles, 0),
        draw_speed_fidelity(out / "speed-fidelity.png", report.rows, of="frame"),
        write_json(out / "results.json", video_results(report)),
    ]


def video_results(report: Report) -> dict[str, Any]:
    """All figures, for results.json; `psnr` holds one number for each frame."""
    found = results(report) | {"format": FORMAT, "frames": FRAMES}
    found["clips"] = found.pop("pictures")
    for method, value in zip(found["methods"], flickers(report), strict=True):
        method["flicker"] = value
    return found


def _title(its: Row) -> str:
    if its.speedup is None or its.mean_psnr is None:
        return f"{its.label}\nbroken"
    return f"{its.label}\n{its.speedup:.1f}x, {its.mean_psnr:.1f} dB"


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
        clips: NDArray[np.float32] = pipe(captions, generator=noise, **options).frames
        return clips.reshape(-1, *clips.shape[2:])

    return call
