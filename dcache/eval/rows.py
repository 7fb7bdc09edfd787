"""Figures of a comparison: one row per method, the table that is printed, what a reader has to know."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dcache.eval.fidelity import broken, psnr, ssim, to_uint8
from dcache.eval.formatting import busy, no_gain, number, share, size

if TYPE_CHECKING:
    from dcache.eval.measured import Measured


@dataclass(frozen=True)
class Row:
    """What one method did. Where its output is broken there is neither a speedup nor a fidelity.

    Attributes:
        computed: share of the site events that were computed, None where nobody counts them.
        seconds, denoiser_seconds: medians.
        spread: (slowest - fastest) / median of the timed calls.
        speedup, denoiser_speedup: the uncached median divided by this one's.
        flops: share of the uncached call's FLOPs, None where they were not counted.
        psnr, ssim: per picture or clip, to the uncached one.
        held: most bytes that the cache held, None where nobody asked.
        peak_memory: as `dcache.eval.call_cost.Cost` has it, the largest of the timed calls.
        broken: what is wrong with the output, or None.
    """

    label: str
    library: str
    computed: float | None
    seconds: float
    denoiser_seconds: float
    spread: float
    speedup: float | None
    denoiser_speedup: float | None
    flops: float | None
    psnr: list[float] | None
    ssim: list[float] | None
    held: int | None
    peak_memory: int | None
    broken: str | None

    @property
    def mean_psnr(self) -> float | None:
        """Mean over the pictures of the PSNR of each."""
        return statistics.fmean(self.psnr) if self.psnr else None

    @property
    def mean_ssim(self) -> float | None:
        """Mean SSIM."""
        return statistics.fmean(self.ssim) if self.ssim else None


def row(one: Measured, uncached: Measured) -> Row:
    """Compare one method with the uncached pipeline."""
    pictures, reference = to_uint8(one.last.output), to_uint8(uncached.last.output)
    problem = broken(one.last.output, reference)
    denoiser = one.denoiser_median
    own, whole = one.inspected.cost.flops, uncached.inspected.cost.flops
    return Row(
        label=one.label,
        library=one.contestant.library,
        computed=one.last.computed,
        seconds=one.median,
        denoiser_seconds=denoiser,
        spread=one.spread,
        speedup=None if problem else uncached.median / one.median,
        denoiser_speedup=None if problem or not denoiser else uncached.denoiser_median / denoiser,
        flops=None if own is None or not whole else own / whole,
        psnr=None if problem else psnr(pictures, reference),
        ssim=None if problem else ssim(pictures, reference),
        held=one.last.cost.bytes_held if one.last.stats else one.inspected.cost.bytes_held,
        peak_memory=one.peak_memory,
        broken=problem,
    )


@dataclass(frozen=True)
class Column:
    """A column of the table: heading, a method's cell, the uncached cell, and which score is best."""

    head: str
    cell: Callable[[Row], str]
    uncached: Callable[[Measured], str] = lambda _: ""
    best: Callable[[Row], float | None] | None = None


def columns(uncached: Measured, rows: Sequence[Row]) -> list[Column]:
    """The columns that these rows can fill."""
    found = [
        Column("computed", lambda r: share(r.computed), lambda _: "100 %"),
        Column("FLOPs", lambda r: share(r.flops), lambda _: "100 %"),
        Column("seconds", lambda r: number(r.seconds, 2), lambda m: number(m.median, 2)),
        Column("spread", lambda r: share(r.spread), lambda m: share(m.spread)),
        Column("speedup", lambda r: _times(r.speedup), lambda _: "1.00x", lambda r: r.speedup),
        Column("denoiser", lambda r: _times(r.denoiser_speedup), lambda _: "1.00x"),
        Column("PSNR dB", lambda r: number(r.mean_psnr, 1), best=lambda r: r.mean_psnr),
        Column("SSIM", lambda r: number(r.mean_ssim, 3), best=lambda r: r.mean_ssim),
        Column("held", lambda r: size(r.held), best=lambda r: -r.held if r.held and not r.broken else None),
        Column("peak", lambda r: size(r.peak_memory), lambda m: size(m.peak_memory)),
    ]
    unknown = {
        "computed": all(r.computed is None for r in rows),
        "FLOPs": all(r.flops is None for r in rows),
        "denoiser": not uncached.denoiser_median,
        "peak": all(r.peak_memory is None for r in rows),
    }
    return [column for column in found if not unknown.get(column.head)]


def table(
    uncached: Measured,
    rows: Sequence[Row],
    only: Sequence[str] = (),
    extra: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The rows as aligned text; a star marks the best of a column.

    Args:
        uncached: the pipeline as it is.
        rows: the methods.
        only: the headings of the columns to show; none shows all that can be filled.
        extra: further columns of ready cells, the uncached pipeline's first.
    """
    shown = [c for c in columns(uncached, rows) if not only or c.head in only]
    more = extra or {}
    lines = [["method", *(f"{c.head} " for c in shown), *(f"{head} " for head in more)]]
    lines += [
        [uncached.label, *(f"{c.uncached(uncached)} " for c in shown), *(f"{c[0]} " for c in more.values())]
    ]
    stars = [_best(rows, column.best) for column in shown]
    for i, one in enumerate(rows):
        cells = [c.cell(one) + "* "[i != star] for c, star in zip(shown, stars, strict=True)]
        lines.append([f"{one.label} ", *cells, *(f"{column[i + 1]} " for column in more.values())])
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns, the first one to the left, with a rule below the headings."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "  ".join("-" * width for width in widths), *text[1:]])


def notes(uncached: Measured, methods: Sequence[Measured], rows: Sequence[Row]) -> list[str]:
    """What a reader has to know: broken output, nothing predicted, warnings, a busy machine."""
    found = []
    for one, its in zip(methods, rows, strict=True):
        stats = one.last.stats
        if its.broken:
            found.append(f"{one.label}: {no_gain(its.broken)}")
        elif stats is not None and stats.predicted == 0:
            found.append(f"{one.label}: nothing was predicted: {stats.why_nothing()}")
        if one.contestant.note:
            found.append(f"{one.label}: {one.contestant.note}")
        if stats is None or stats.predicted:
            found += [f"{one.label}: {warning}" for warning in one.warnings]
    spread = max(max(one.seconds) / min(one.seconds) - 1 for one in [uncached, *methods])
    return found + busy(spread, "speedups")


def _times(value: float | None) -> str:
    return "broken" if value is None else f"{value:.2f}x"


def _best(rows: Sequence[Row], score: Callable[[Row], float | None] | None) -> int | None:
    # What predicts nothing is as close as can be, and no achievement.
    ranked = [(i, one) for i, one in enumerate(rows) if one.computed != 1]
    scores = {i: s for i, one in ranked if score and (s := score(one)) is not None}
    return max(scores, key=lambda i: scores[i]) if len(scores) > 1 else None
