"""Comparison of methods on one pipeline: same prompts and seeds, a warm-up, calls in turns, medians."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from dcache.errors import DcacheError
from dcache.eval.entries import UNCACHED, BenchEntry, CallResult, check_entry, run_counted, run_once
from dcache.eval.fidelity import broken
from dcache.eval.limits import check_limit
from dcache.eval.machine import machine, versions
from dcache.eval.measured import Measured
from dcache.eval.rows import Row, row
from dcache.eval.subject import Subject


@dataclass(frozen=True)
class Bench:
    """A finished comparison. `rows` belong to `methods`, in the same order.

    Attributes:
        unrestored: warning that the uncached output changed between rounds; "" if it did not.
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


def bench(  # noqa: PLR0913
    subject: Subject,
    contestants: Sequence[BenchEntry],
    prompts: Sequence[str],
    *,
    seed: int = 0,
    repeats: int = 3,
    count_flops: bool = True,
    progress: Callable[[int, str], None] = lambda _turn, _label: None,
    packages: Sequence[str] = (),
    calls: int = 1,
    clock: Callable[[], float] = perf_counter,
) -> Bench:
    """Run the uncached pipeline and every method once to warm up, and `repeats` times on the clock.

    Every round calls the uncached pipeline and then all methods, in random order, so that a drift of the
    machine's speed affects all of them. The warm-up call counts FLOPs; that of `tuned` is made once more
    where the first one was observed.

    Args:
        subject: a pipeline without caching, and its call settings.
        contestants: the methods to compare.
        prompts: one picture or clip each, all in one batch; picture i has seed `seed + i`.
        seed: the first seed, and the seed of the order.
        repeats: timed rounds.
        count_flops: count FLOPs and the bytes held by caches, in the warm-up.
        progress: called with round (0 is the warm-up) and label before each call.
        packages: further packages whose versions are recorded.
        calls: calls in a row of an enabled method; the last one counts, the first is `Measured.first`.
        clock: gives the seconds, as for `measure_call`.

    Raises:
        DcacheError: a method cannot be used on this pipeline, or the uncached output is broken.
    """
    _check(subject, contestants, prompts, seed, repeats)
    hardware, seeds = machine(), [seed + i for i in range(len(prompts))]

    def call(turn: int, contestant: BenchEntry) -> CallResult:
        progress(turn, contestant.label)
        if turn == 0 and count_flops:
            return run_counted(subject, contestant, prompts, seeds)
        if turn == 0:
            return run_once(subject, contestant, prompts, seeds)
        return run_once(subject, contestant, prompts, seeds, calls=calls, clock=clock)

    uncached, *methods = [
        Measured(contestant, call(0, contestant)) for contestant in (UNCACHED, *contestants)
    ]
    if problem := broken(uncached.inspected.output):
        raise DcacheError(
            f"without caching {problem}, so there is nothing to compare with. Try more sampling steps."
        )
    order = random.Random(seed)
    moved = max(_round(turn, uncached, methods, order, call) for turn in range(1, repeats + 1))
    rows = [row(measured, uncached) for measured in methods]
    software, unrestored = versions(packages), _unrestored(moved)
    return Bench(subject, list(prompts), seeds, uncached, methods, rows, hardware, software, unrestored)


def _check(
    subject: Subject, contestants: Sequence[BenchEntry], prompts: Sequence[str], seed: int, repeats: int
) -> None:
    """Refuse numbers out of range, and methods that cannot be used on this pipeline."""
    if repeats < 1 or not prompts:
        raise DcacheError(
            f"expected at least one timed round and one prompt, got {repeats} and {len(prompts)}"
        )
    check_limit("seed", seed)
    for contestant in contestants:
        check_entry(subject, contestant)


def _round(
    turn: int,
    uncached: Measured,
    methods: Sequence[Measured],
    order: random.Random,
    call: Callable[[int, BenchEntry], CallResult],
) -> float:
    """Call each once; returns the largest change of the uncached output since the warm-up."""
    for measured in (uncached, *order.sample(methods, len(methods))):
        if measured.last is not uncached.inspected:
            # Frees the output of the call before; an empty view would keep all of it alive.
            measured.last.output = measured.last.output[:0].copy()
        measured.timed.append(call(turn, measured.contestant))
    change = np.abs(uncached.last.output - uncached.inspected.output)
    return float(np.nan_to_num(change, nan=1.0).max())


def _unrestored(moved: float) -> str:
    # Kernels that sum in varying order change the last bits only; a cache that was left on changes more.
    if moved < 1 / 255:
        return ""
    return (
        f"the uncached output changed by up to {moved:.3f} (of 1) between rounds: either the pipeline is not "
        "repeatable, or a method did not restore it. Do not trust these figures"
    )
