"""Make the pictures of an evaluation: batch after batch, in each of them one method after the other."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dcache.eval.entries import UNCACHED, BenchEntry, CallResult, run_once
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
    tell: Progress = silent,
) -> int:
    """Make what is missing or damaged; what is there and right is not touched.

    Methods take turns within a batch, so that a machine that slows down slows all of them. Batches are the
    same whatever the number of processes, and so are the pictures.

    Args:
        store: the folder, with these methods in it.
        subject: the pipeline, as the folder's settings say.
        contestants: the methods; the uncached pipeline comes by itself.
        warm_up: call each method once off the clock before its first batch, and count FLOPs in that call.
        process: index and count; batch i belongs to process i modulo their number.
        tell: called with a label, how many calls are done, and how many this process has, before each.

    Returns:
        How many batches were made.

    Raises:
        DcacheError: a method cannot be used on this pipeline, or a file cannot be written.
    """
    index, count = process
    mine = range(index, len(store.batches), count)
    turns = [(batch, one) for batch in mine for one in (UNCACHED, *contestants)]
    # Method -> the sizes of batches that this process called it with.
    called: dict[str, set[int]] = {}
    made, began = 0, datetime.now().isoformat(timespec="seconds")
    for done, (batch, one) in enumerate(turns):
        tell(one.label, done, len(turns))
        entry, items = store.entry(one), store.batches[batch]
        if store.sound(entry, batch):
            continue
        prompts, seeds = [item.prompt for item in items], [item.seed for item in items]
        inspected, sizes = None, called.setdefault(entry.folder, set())
        if warm_up and not sizes:
            inspected = run_once(subject, one, prompts, seeds, count_flops=True)
            sizes.add(len(items))
        outcome = run_once(subject, one, prompts, seeds)
        beside = None if one is UNCACHED else store.pictures(store.methods[0], items)
        record = _record(outcome, inspected, warm=len(items) in sizes)
        record |= {"broken": broken(outcome.output, beside), "run": began}
        store.keep(entry, batch, to_uint8(outcome.output), record, outcome.trace)
        sizes.add(len(items))
        made += 1
    tell("pictures", len(turns), len(turns))
    return made


def _record(outcome: CallResult, inspected: CallResult | None, warm: bool) -> dict[str, Any]:
    """What is kept of a call.

    Args:
        outcome: the call on the clock.
        inspected: the same call before it, off the clock, if there was one.
        warm: whether this process had called the method with as many pictures before.
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
