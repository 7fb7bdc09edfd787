"""The generate stage: makes the pictures of an evaluation, batch by batch, with all methods in each batch."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dcache.eval.entries import UNCACHED, BenchEntry, CallResult, run_counted, run_once
from dcache.eval.fidelity import broken, to_uint8
from dcache.eval.progress import Progress, silent
from dcache.eval.store import Store
from dcache.eval.subject import Subject


def generate(
    store: Store,
    subject: Subject,
    contestants: Sequence[BenchEntry],
    *,
    warm_up: bool = True,
    process: tuple[int, int] = (0, 1),
    progress: Progress = silent,
) -> int:
    """Make the pictures that are missing or damaged; sound ones are not touched.

    Methods take turns within a batch, so that a drift of the machine's speed affects all of them. Batches,
    and so the pictures, do not depend on the number of processes.

    Args:
        store: the folder; its manifest has these methods.
        subject: the pipeline with the folder's settings.
        contestants: the methods; the uncached pipeline is added.
        warm_up: call each method once untimed before its first batch, and count FLOPs in that call.
        process: rank and world size; batch i belongs to the process of rank i modulo world size.
        progress: called before each call with the method's label, the calls done, and this process's calls.

    Returns:
        Number of batches that were made.

    Raises:
        DcacheError: a method cannot be used on this pipeline, or a file cannot be written.
    """
    rank, world_size = process
    mine = range(rank, len(store.batches), world_size)
    turns = [(batch, contestant) for batch in mine for contestant in (UNCACHED, *contestants)]
    # Method -> batch sizes that this process has called it with.
    called: dict[str, set[int]] = {}
    count, began = 0, datetime.now().isoformat(timespec="seconds")
    for done, (batch, contestant) in enumerate(turns):
        progress(contestant.label, done, len(turns))
        entry, items = store.entry(contestant), store.batches[batch]
        if store.sound(entry, batch):
            continue
        prompts, seeds = [item.prompt for item in items], [item.seed for item in items]
        inspected, sizes = None, called.setdefault(entry.folder, set())
        if warm_up and not sizes:
            inspected = run_counted(subject, contestant, prompts, seeds)
            sizes.add(len(items))
        outcome = run_once(subject, contestant, prompts, seeds)
        beside = None if contestant is UNCACHED else store.pictures(store.methods[0], items)
        record = _record(outcome, inspected, warm=len(items) in sizes)
        record |= {"broken": broken(outcome.output, beside), "run": began}
        store.keep(entry, batch, to_uint8(outcome.output), record, outcome.trace)
        sizes.add(len(items))
        count += 1
    progress("pictures", len(turns), len(turns))
    return count


def _record(outcome: CallResult, inspected: CallResult | None, warm: bool) -> dict[str, Any]:
    """The record of a call, as JSON values.

    Args:
        outcome: the timed call.
        inspected: the untimed warm-up call before it; None if there was none.
        warm: whether this process had called the method with the same batch size before.
    """
    cost, seen = outcome.cost, (inspected or outcome).cost
    return {
        "seconds": cost.seconds,
        "denoiser_seconds": cost.denoiser_seconds,
        "flops": seen.flops,
        "denoiser_flops": seen.denoiser_flops,
        "bytes_held": seen.bytes_held if outcome.stats is None else cost.bytes_held,
        "peak_memory": cost.peak_memory,
        "computed": outcome.computed,
        "warm": warm,
        "warnings": outcome.warnings,
    }
