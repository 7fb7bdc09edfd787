"""Figures of a comparison: one row per method, the printed table, and its notes."""

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
    """Figures of one method. A method with broken output has no speedup and no fidelity.

    Attributes:
        computed: share of the site events that were computed; None without statistics.
        seconds, denoiser_seconds: medians over the timed calls.
        spread: (slowest - fastest) / median of the timed calls.
        speedup, denoiser_speedup: the uncached median divided by this method's.
        flops: share of the uncached call's FLOPs; None if they were not counted.
        psnr, ssim: per picture or clip, to the uncached one; PSNR in dB.
        held: most bytes that the cache held; None if they were not counted.
        peak_memory: largest peak memory of the timed calls, in bytes, as in `dcache.eval.call_cost.Cost`.
        broken: what is wrong with the output; None if it is sound.
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
        """Mean PSNR over the pictures, in dB."""
        return statistics.fmean(self.psnr) if self.psnr else None

    @property
    def mean_ssim(self) -> float | None:
        """Mean SSIM."""
        return statistics.fmean(self.ssim) if self.ssim else None


def row(measured: Measured, uncached: Measured) -> Row:
    """Compare one method with the uncached pipeline."""
    pictures, reference = to_uint8(measured.last.output), to_uint8(uncached.last.output)
    problem = broken(measured.last.output, reference)
    denoiser = measured.denoiser_median
    flops, uncached_flops = measured.inspected.cost.flops, uncached.inspected.cost.flops
    return Row(
        label=measured.label,
        library=measured.contestant.library,
        computed=measured.last.computed,
        seconds=measured.median,
        denoiser_seconds=denoiser,
        spread=measured.spread,
        speedup=None if problem else uncached.median / measured.median,
        denoiser_speedup=None if problem or not denoiser else uncached.denoiser_median / denoiser,
        flops=None if flops is None or not uncached_flops else flops / uncached_flops,
        psnr=None if problem else psnr(pictures, reference),
        ssim=None if problem else ssim(pictures, reference),
        held=measured.last.cost.bytes_held if measured.last.stats else measured.inspected.cost.bytes_held,
        peak_memory=measured.peak_memory,
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
    """The columns for which the rows have values."""
    every = [
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
    return [column for column in every if not unknown.get(column.head)]


def table(
    uncached: Measured,
    rows: Sequence[Row],
    only: Sequence[str] = (),
    extra: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The rows as aligned text; a star marks the best of a column.

    Args:
        uncached: the uncached pipeline.
        rows: the methods.
        only: headings of the columns to show; empty shows all that have values.
        extra: heading -> cells of a further column, the uncached pipeline's first.
    """
    shown = [c for c in columns(uncached, rows) if not only or c.head in only]
    more = extra or {}
    lines = [["method", *(f"{c.head} " for c in shown), *(f"{head} " for head in more)]]
    lines += [
        [uncached.label, *(f"{c.uncached(uncached)} " for c in shown), *(f"{c[0]} " for c in more.values())]
    ]
    stars = [_best(rows, column.best) for column in shown]
    for i, row in enumerate(rows):
        cells = [c.cell(row) + "* "[i != star] for c, star in zip(shown, stars, strict=True)]
        lines.append([f"{row.label} ", *cells, *(f"{column[i + 1]} " for column in more.values())])
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Text of a table: the first column aligned left, the others right, with a rule below the headings."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "  ".join("-" * width for width in widths), *text[1:]])


def notes(uncached: Measured, methods: Sequence[Measured], rows: Sequence[Row]) -> list[str]:
    """Notes on the figures: broken output, nothing predicted, warnings, a busy machine."""
    texts = []
    for measured, row in zip(methods, rows, strict=True):
        stats = measured.last.stats
        if row.broken:
            texts.append(f"{measured.label}: {no_gain(row.broken)}")
        elif stats is not None and stats.predicted == 0:
            texts.append(f"{measured.label}: nothing was predicted: {stats.why_nothing()}")
        if measured.contestant.note:
            texts.append(f"{measured.label}: {measured.contestant.note}")
        if stats is None or stats.predicted:
            texts += [f"{measured.label}: {warning}" for warning in measured.warnings]
    spread = max(max(measured.seconds) / min(measured.seconds) - 1 for measured in [uncached, *methods])
    return texts + busy(spread, "speedups")


def _times(value: float | None) -> str:
    return "broken" if value is None else f"{value:.2f}x"


def _best(rows: Sequence[Row], score: Callable[[Row], float | None] | None) -> int | None:
    # A method that predicted nothing has perfect fidelity and must not count as the best.
    ranked = [(i, row) for i, row in enumerate(rows) if row.computed != 1]
    scores = {i: s for i, row in ranked if score and (s := score(row)) is not None}
    return max(scores, key=lambda i: scores[i]) if len(scores) > 1 else None
