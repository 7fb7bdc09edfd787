"""Figures of a demonstration: one row per method, the table that is printed, the machine."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dcache.demo.fidelity import broken, psnr, ssim, to_uint8
from dcache.demo.measure import Measured

HEADINGS = ("method", "computed", "seconds", "speedup", "PSNR dB", "SSIM", "held")
BUSY = 0.25


@dataclass(frozen=True)
class Row:
    """What one method did. Where its pictures are broken there is neither a speedup nor a fidelity.

    Attributes:
        computed: share of the site events that were computed.
        seconds, denoiser_seconds: medians.
        speedup, denoiser_speedup: the uncached median divided by this one's.
        psnr: per picture, dB on uint8, capped at 100.
        held: most bytes that the histories held.
    """

    label: str
    computed: float
    seconds: float
    denoiser_seconds: float
    speedup: float | None
    denoiser_speedup: float | None
    psnr: list[float] | None
    ssim: float | None
    held: int
    broken: str | None

    @property
    def mean_psnr(self) -> float | None:
        """Mean over the pictures of the PSNR of each."""
        return statistics.fmean(self.psnr) if self.psnr else None


def row(one: Measured, uncached: Measured) -> Row:
    """Compare one method with the uncached pipeline."""
    problem = broken(one.pictures)
    events = one.stats.computed + one.stats.predicted
    pictures, reference = to_uint8(one.pictures), to_uint8(uncached.pictures)
    return Row(
        label=one.label,
        computed=one.stats.computed / events if events else 1.0,
        seconds=one.median,
        denoiser_seconds=one.denoiser_median,
        speedup=None if problem else uncached.median / one.median,
        denoiser_speedup=None if problem else uncached.denoiser_median / one.denoiser_median,
        psnr=None if problem else psnr(pictures, reference),
        ssim=None if problem else ssim(pictures, reference),
        held=one.stats.bytes_held,
        broken=problem,
    )


def table(uncached: Measured, rows: Sequence[Row], extra: Mapping[str, Sequence[str]] | None = None) -> str:
    """The rows as aligned text; a star marks the best of a column. `extra` adds columns of ready cells."""
    extra = extra or {}
    lines = [
        [*HEADINGS, *extra],
        [uncached.label, "100 %", f"{uncached.median:.2f}", "1.00x", "", "", "", *("" for _ in extra)],
    ]
    stars = {
        3: _best(rows, lambda r: r.speedup),
        4: _best(rows, lambda r: r.mean_psnr),
        5: _best(rows, lambda r: r.ssim),
        6: _best(rows, lambda r: None if r.broken else -float(r.held)),
    }
    for index, one in enumerate(rows):
        cells = [one.label, f"{one.computed:.0%}".replace("%", " %"), f"{one.seconds:.2f}"]
        if one.broken or one.speedup is None or one.mean_psnr is None or one.ssim is None:
            cells += ["broken", "-", "-", size(one.held)]
        else:
            cells += [f"{one.speedup:.2f}x", f"{one.mean_psnr:.1f}", f"{one.ssim:.3f}", size(one.held)]
        cells += [column[index] for column in extra.values()]
        lines.append([cell + ("*" if stars.get(i) == index else " ") for i, cell in enumerate(cells)])
    lines[0] = [lines[0][0], *(f"{cell} " for cell in lines[0][1:])]
    lines[1] = [lines[1][0], *(f"{cell} " for cell in lines[1][1:])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([text[0], rule, *text[1:]])


def notes(uncached: Measured, methods: Sequence[Measured], rows: Sequence[Row]) -> list[str]:
    """What a reader has to know: broken pictures, nothing predicted, warnings, a busy machine."""
    found = []
    for one, its in zip(methods, rows, strict=True):
        if its.broken:
            found.append(f"{one.label}: {its.broken}, so no gain is reported")
        elif one.stats.predicted == 0:
            found.append(f"{one.label}: nothing was predicted: {one.stats.why_nothing()}")
        if one.choice.note:
            found.append(f"{one.label}: {one.choice.note}")
        found += [f"{one.label}: {warning}" for warning in one.warnings if one.stats.predicted]
    spread = max(max(one.seconds) / min(one.seconds) - 1 for one in [uncached, *methods])
    if spread > BUSY:
        found.append(
            f"the machine was busy: equal calls took up to {spread:.0%} longer, so trust the speedups less"
        )
    return found


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1024:.0f} KiB" if count < 1024**2 else f"{count / 1024**2:.1f} MiB"


def machine() -> dict[str, Any]:
    """What it ran on."""
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    """What it ran with."""
    found = {"python": platform.python_version()}
    for name in ("dcache", "torch", "diffusers", "transformers", "torchmetrics", "matplotlib", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def _best(rows: Sequence[Row], score: Callable[[Row], float | None]) -> int | None:
    scores = {i: s for i, one in enumerate(rows) if (s := score(one)) is not None}
    return max(scores, key=lambda i: scores[i]) if len(scores) > 1 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
