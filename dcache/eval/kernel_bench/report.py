"""Output of the kernel measurement: table, notes, JSON file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcache.eval.formatting import busy, number, share, size
from dcache.eval.kernel_bench import KernelBench, Timed
from dcache.eval.rows import aligned
from dcache.util.files import make_folder, write_json

FORMAT = "dcache.kernels"
# Results that differ by more than this share of the largest value are not the same arithmetic.
AGREE = 0.01


def table(done: KernelBench) -> str:
    """One line for each op and size."""
    heads = ["op", "tensor", "moved", "GB/s", "copy GB/s", "of copy", "eager GB/s", "gain"]
    return aligned([heads, *(_line(row) for row in done.rows)])


def notes(done: KernelBench) -> list[str]:
    """Notes on the figures: disagreeing results, references in place of kernels, a busy machine."""
    texts = [
        f"{row.op}, {size(row.size)}: the result differs from the eager chain's by {share(row.off)}, so no "
        "gain is reported"
        for row in done.rows
        if not _agrees(row)
    ]
    plain = list(dict.fromkeys(row.op for row in done.rows if not row.kernel))
    if plain:
        which = "" if all(not row.kernel for row in done.rows) else f" in {'; '.join(plain)}"
        texts.append(f"on {done.device} torch references are measured{which}, no Triton kernels")
    if done.device == "cpu" and any(row.kernel for row in done.rows):
        texts.append("kernels were interpreted: their times are meaningless")
    return texts + busy(max(row.spread for row in done.rows), "rates")


def write(done: KernelBench, out: Path) -> Path:
    """Write kernels.json into a folder."""
    make_folder(out)
    return write_json(out / "kernels.json", results(done))


def results(done: KernelBench) -> dict[str, Any]:
    """All figures, as plain JSON values."""
    return {
        "format": FORMAT,
        "version": 1,
        "device": done.device,
        "dtype": done.dtype,
        "repeats": done.repeats,
        "machine": done.machine,
        "versions": done.versions,
        "rows": [
            asdict(row)
            | {"off": row.off if row.off == row.off else None}
            | {"bytes_per_second": row.rate, "gain": row.gain if _agrees(row) else None}
            for row in done.rows
        ],
    }


def _line(row: Timed) -> list[str]:
    copy, eager = (row.moved / s / 1e9 for s in (row.copy_seconds, row.eager_seconds))
    return [
        row.op,
        size(row.size),
        size(row.moved),
        number(row.rate / 1e9, 1),
        number(copy, 1),
        share(row.of_copy),
        number(eager, 1),
        f"{row.gain:.2f}x" if _agrees(row) else "broken",
    ]


def _agrees(row: Timed) -> bool:
    # NaN agrees with nothing.
    return row.off <= AGREE
