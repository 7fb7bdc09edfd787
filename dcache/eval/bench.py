"""Methods side by side on one pipeline: the same prompts and seeds, in turns, a warm-up, medians."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dcache.errors import DcacheError
from dcache.eval.entries import UNCACHED, BenchEntry, CallResult, check_entry, run_once
from dcache.eval.fidelity import broken
from dcache.eval.machine import machine, versions
from dcache.eval.measured import Measured
from dcache.eval.rows import Row, row
from dcache.eval.subject import Subject


@dataclass(frozen=True)
class Bench:
    """A finished comparison. `rows` belong to `methods`, in the same order.

    Attributes:
        unrestored: what is known of contestants that did not leave the pipeline as they found it.
    """

    subject: Subject
    prompts: list[str]
    seeds: list[int]
    uncached: Measured
    methods: list[Measured]
    rows: list[Row]
    machine: dict[str, Any]
    versions: dict[str, str]
    unrestored: str = ""


def bench(
    subject: Subject,
    contestants: Sequence[BenchEntry],
    prompts: Sequence[str],
    *,
    seed: int = 0,
    repeats: int = 3,
    count_flops: bool = True,
    tell: Callable[[int, str], None] = lambda _turn, _label: None,
    packages: Sequence[str] = (),
) -> Bench:
    """Run the uncached pipeline and every contestant once to warm up and `repeats` times on the clock.

    The contestants take turns, each round in another order (the uncached pipeline first), so that a machine
    that slows down slows all of them. The warm-up call counts FLOPs.

    Args:
        subject: a pipeline without caching, and how it is called.
        contestants: the methods.
        prompts: one picture or clip each, all in one batch; picture i has seed `seed + i`.
        seed: the first seed.
        repeats: timed rounds.
        count_flops: count them, and ask everybody for the bytes held, in the warm-up.
        tell: called with round (0 is the warm-up) and label before each call.
        packages: further packages whose versions belong to the figures.

    Raises:
        DcacheError: a contestant cannot be used on this pipeline, or the uncached output is broken.
    """
    if repeats < 1 or not prompts:
        raise DcacheError(f"expected at least one timed round and one prompt: {repeats} and {len(prompts)}")
    hardware, seeds = machine(), [seed + i for i in range(len(prompts))]
    for one in contestants:
        check_entry(subject, one)

    def call(turn: int, one: BenchEntry) -> CallResult:
        tell(turn, one.label)
        return run_once(subject, one, prompts, seeds, count_flops=count_flops and turn == 0)

    uncached, *methods = [Measured(one, call(0, one)) for one in (UNCACHED, *contestants)]
    if problem := broken(uncached.inspected.output):
        raise DcacheError(f"without caching {problem}: there is nothing to compare with. Try more steps.")
    order = random.Random(seed)
    moved = max(_round(turn, uncached, methods, order, call) for turn in range(1, repeats + 1))
    rows = [row(measured, uncached) for measured in methods]
    software, unrestored = versions(packages), _unrestored(moved)
    return Bench(subject, list(prompts), seeds, uncached, methods, rows, hardware, software, unrestored)


def _round(
    turn: int,
    uncached: Measured,
    methods: Sequence[Measured],
    order: random.Random,
    call: Callable[[int, BenchEntry], CallResult],
) -> float:
    """Call everybody once; return by how much the uncached output differs from that of the warm-up."""
    for measured in (uncached, *order.sample(methods, len(methods))):
        if measured.last is not uncached.inspected:
            # A copy: a view would keep all of it.
            measured.last.output = measured.last.output[:0].copy()
        measured.timed.append(call(turn, measured.contestant))
    change = np.abs(uncached.last.output - uncached.inspected.output)
    return float(np.nan_to_num(change, nan=1.0).max())


def _unrestored(moved: float) -> str:
    # Kernels that add up in any order differ in the last bits; a cache left on differs visibly.
    if moved < 1 / 255:
        return ""
    return (
        f"the uncached output changed by up to {moved:.3f} (of 1) between rounds: either the pipeline is not "
        "repeatable, or a contestant did not leave it as it was; do not trust these figures"
    )
