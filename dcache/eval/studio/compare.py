"""One picture or clip uncached and cached: the calls, their figures, and what the page shows of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcache.errors import DcacheError
from dcache.eval.entries import UNCACHED, BenchEntry, CallResult, check_entry, run_once
from dcache.eval.fidelity import PICTURE, broken, to_uint8
from dcache.eval.formatting import number, share, size
from dcache.eval.images import MILLISECONDS, encode
from dcache.eval.measured import Measured
from dcache.eval.rows import Row, notes, row
from dcache.eval.schedules import heading, panels
from dcache.eval.studio.drift import drift_note
from dcache.eval.studio.form import Form
from dcache.eval.studio.watch import Watch, Watched
from dcache.eval.subject import Subject
from dcache.schedule import Schedule

# Of a clip the page shows so many frames at most, and so many rows of pixels.
MOST_FRAMES, MOST_ROWS = 32, 16_000


@dataclass(frozen=True)
class Picture:
    """One side's picture or clip.

    Attributes:
        file: PNG, or animated PNG of a clip.
        strip: PNG with the shown frames below each other; of a picture the same as `file`.
        frames: frames in the strip.
        width, height: size of a frame in pixels.
    """

    file: bytes
    strip: bytes
    frames: int
    width: int
    height: int

    @staticmethod
    def of(pixels: NDArray[np.uint8]) -> Picture:
        """Encode a picture (H, W, 3) or a clip (F, H, W, 3)."""
        file, (height, width) = encode(pixels), pixels.shape[-3:-1]
        if pixels.ndim < PICTURE:
            return Picture(file, file, 1, width, height)
        count = max(1, min(len(pixels), MOST_FRAMES, MOST_ROWS // height))
        shown = pixels[np.linspace(0, len(pixels) - 1, count).round().astype(int)]
        return Picture(file, encode(shown.reshape(-1, *shown.shape[2:])), count, width, height)

    def content(self) -> dict[str, Any]:
        """What the page has to know of it, as JSON values."""
        return {
            "frames": self.frames,
            "width": self.width,
            "height": self.height,
            "milliseconds": MILLISECONDS,
        }


@dataclass(frozen=True)
class Uncached:
    """The uncached side of one call, remembered for further methods.

    Attributes:
        measured: its calls.
        picture: its picture.
    """

    measured: Measured
    picture: Picture

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        outputs = {id(r.output): r.output.nbytes for r in (self.measured.inspected, self.measured.last)}
        return sum(outputs.values()) + len(self.picture.file) + len(self.picture.strip)


def uncached_side(
    subject: Subject, form: Form, watch: Watch, clock: Callable[[], float] = perf_counter
) -> Uncached:
    """Call the pipeline without caching.

    Raises:
        DcacheError: the pipeline refuses the call, or its output is broken.
        StoppedError: the call was ended on request.
    """
    measured, _ = _measured(subject, UNCACHED, form, watch, clock)
    if problem := broken(measured.last.output):
        raise DcacheError(
            f"without caching {problem}, so there is nothing to compare with. Try more sampling steps."
        )
    return Uncached(measured, Picture.of(to_uint8(measured.last.output)[0]))


@dataclass(frozen=True)
class Comparison:
    """Both sides of one comparison.

    Attributes:
        form: what was asked for.
        entry: the method.
        picture: the cached picture.
        uncached: the uncached picture.
        row: the figures, as those of `dcache bench`.
        seconds: of the uncached call.
        trace: what was computed; None if nothing was recorded.
        reasons: as in `Watch`.
        notes: remarks on the figures.
        plan: as in `dcache.stats.Stats`.
        steps: sampling steps.
        guidance: guidance scale; None if the pipeline has none.
        remembered: whether the uncached call is an earlier run's.
        drifted: whether the machine's speed changed between the two sides.
    """

    form: Form
    entry: BenchEntry
    picture: Picture
    uncached: Picture
    row: Row
    seconds: float
    trace: Schedule | None
    reasons: Sequence[dict[str, int]]
    notes: Sequence[str]
    plan: str
    steps: int | None
    guidance: float | None
    remembered: bool
    drifted: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all pictures."""
        sides = (self.picture, self.uncached)
        return sum(len(side.file) + (len(side.strip) if side.frames > 1 else 0) for side in sides)

    @property
    def line(self) -> str:
        """The line of Python that enables the method."""
        return f"dcache.enable(pipe{self.entry.call}"

    def figures(self) -> list[dict[str, str]]:
        """Title, text and meaning of each figure, the first ones for the largest print."""
        figures, mean = self.row, self.row.mean_psnr
        times = "broken" if figures.speedup is None else f"{figures.speedup:.2f}×"
        inside = figures.denoiser_speedup
        shown = [
            ("speedup", times, "uncached seconds over cached seconds, of the whole call"),
            ("PSNR", "-" if mean is None else f"{mean:.1f} dB", "to the uncached picture; 100 dB is equal"),
            ("uncached", f"{self.seconds:.2f} s", "seconds of the whole call"),
            ("cached", f"{figures.seconds:.2f} s", "seconds of the whole call"),
            ("denoiser", "-" if inside is None else f"{inside:.2f}×", "speedup inside the denoiser"),
            ("computed", share(figures.computed), "share of the sites' evaluations that were computed"),
            ("FLOPs", share(figures.flops), "share of the uncached call's operations; warm-up counts them"),
            ("SSIM", number(figures.mean_ssim, 3), "structural similarity to the uncached picture"),
            ("held", size(figures.held), "most bytes that the cache held"),
        ]
        return [{"title": title, "text": text, "what": what} for title, text, what in shown]

    def map(self) -> dict[str, Any] | None:
        """The schedule as tables of sites and evaluations; None if nothing was recorded."""
        if self.trace is None:
            return None
        tables = [
            {
                "title": ", ".join(filter(None, (p.denoiser, p.branch, f"predicted by {p.predictor}"))),
                "strips": [
                    {"sites": s.name, "cells": "".join("01"[c] for c in s.cells), "share": f"{s.share:.0%}"}
                    for s in p.strips
                ],
            }
            for p in panels(self.trace)
        ]
        return {"heading": heading(self.trace), "steps": self.trace.steps, "tables": tables}

    def content(self) -> dict[str, Any]:
        """All that the page shows, as JSON values."""
        return {
            "form": self.form.content(),
            "label": self.entry.label,
            "remembered": self.remembered,
            "steps": self.steps,
            "guidance": self.guidance,
            "line": self.line,
            "figures": self.figures(),
            "speedup": self.row.speedup,
            "flops": self.row.flops,
            "psnr": self.row.mean_psnr,
            "map": self.map(),
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "plan": self.plan,
            "picture": self.picture.content(),
        }

    def schedule_file(self) -> bytes:
        """The trace as the text of a schedule file.

        Raises:
            DcacheError: there is no trace, or its numbers need a second file.
        """
        if self.trace is None:
            raise DcacheError("nothing was recorded, so there is no schedule")
        with tempfile.TemporaryDirectory() as folder:
            path = self.trace.save(Path(folder) / "studio.schedule.json")
            if len(list(path.parent.iterdir())) > 1:
                raise DcacheError(
                    "this schedule has corrections, which lie in a second file: save it in Python, "
                    "dcache.trace(pipe).save('my.schedule.json')"
                )
            return path.read_bytes()

    def file_name(self) -> str:
        """A name for the schedule's file."""
        return f"{self.entry.file_name}.schedule.json"


def compare(
    subject: Subject,
    entry: BenchEntry,
    form: Form,
    uncached: Uncached,
    watch: Watch,
    clock: Callable[[], float] = perf_counter,
    remembered: bool = False,
) -> Comparison:
    """Call the pipeline with a method and compare it with the uncached call of the same settings.

    Args:
        subject: the pipeline, with the options of this call.
        entry: the method.
        form: what was asked for.
        uncached: the uncached side.
        watch: follows the calls.
        clock: gives the seconds, as for `dcache.eval.entries.run_once`.
        remembered: whether the uncached call is an earlier run's.

    Raises:
        DcacheError: the method cannot be used on this pipeline.
        StoppedError: the call was ended on request.
    """
    check_entry(subject, entry)
    measured, reasons = _measured(subject, entry, form, watch, clock)
    figures, last = row(measured, uncached.measured), measured.last
    drift = drift_note(uncached.measured.last, last)
    return Comparison(
        form,
        entry,
        Picture.of(to_uint8(last.output)[0]),
        uncached.picture,
        figures,
        uncached.measured.median,
        last.trace,
        reasons,
        notes(uncached.measured, [measured], [figures]) + drift,
        last.stats.plan if last.stats is not None else "",
        subject.steps,
        subject.guidance,
        remembered,
        bool(drift),
    )


def _measured(
    subject: Subject, entry: BenchEntry, form: Form, watch: Watch, clock: Callable[[], float]
) -> tuple[Measured, list[dict[str, int]]]:
    """The calls of one side, and the reasons of its evaluations."""
    watched, side = Watched.of(entry, watch), "uncached" if entry is UNCACHED else "cached"

    def call(phase: str, inspected: bool) -> CallResult:
        watch.begin(side, phase, watch.done or subject.steps or 0, counts=inspected or not form.warm_up)
        return run_once(subject, watched, [form.prompt], [form.seed], inspected and form.warm_up, clock=clock)

    first = call("warm-up" if form.warm_up else "timed", inspected=True)
    if first.observed:
        # The first call of `tuned` is computed in full; the plan made from it is what is asked for.
        first = call("warm-up" if form.warm_up else "timed", inspected=True)
    reasons = watch.reasons
    timed = call("timed", inspected=False) if form.warm_up else first
    return Measured(entry, first, [timed]), reasons
