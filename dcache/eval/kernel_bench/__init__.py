"""Timing of the ops of `dcache.kernels`, each beside a copy of as many bytes and an eager chain in torch.

All ops are limited by memory bandwidth, so the copy is the upper bound: an op that moves B bytes is compared
with a copy that reads B / 2 and writes B / 2. The eager chain is the same arithmetic in plain torch ops.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from time import perf_counter
from typing import Any

import torch
from torch.utils.benchmark import Timer

from dcache.errors import DcacheError
from dcache.eval.kernel_bench.cases import Case, all_cases
from dcache.eval.kernel_bench.kv_cases import cache_cases
from dcache.eval.machine import machine, versions
from dcache.eval.progress import Progress, silent

SIZES = (1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26)

# Target duration of a turn in seconds: the call is repeated accordingly.
_TURN = 2e-3
_MOST_CALLS = 2000


@dataclass(frozen=True)
class Timed:
    """One op at one size. Seconds and ratios are medians over the rounds; a ratio is of one round.

    Attributes:
        op: name of the op.
        size: bytes of one whole tensor, in the dtype of the computation.
        moved: bytes read and written.
        kernel: True for a Triton kernel, False for the torch reference.
        seconds, copy_seconds, eager_seconds: seconds of one call.
        of_copy: share of the copy's rate.
        gain: speedup over the eager chain.
        spread: (slowest - fastest) / median of its turns.
        off: largest difference to the eager chain's result, divided by that result's largest magnitude.
    """

    op: str
    size: int
    moved: int
    kernel: bool
    seconds: float
    copy_seconds: float
    eager_seconds: float
    of_copy: float
    gain: float
    spread: float
    off: float

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.moved / self.seconds


@dataclass(frozen=True)
class KernelBench:
    """A finished measurement."""

    device: str
    dtype: str
    repeats: int
    rows: list[Timed]
    machine: dict[str, Any]
    versions: dict[str, str]


def kernel_bench(
    dtype: torch.dtype,
    device: str,
    *,
    sizes: Sequence[int] = SIZES,
    repeats: int = 9,
    progress: Progress = silent,
) -> KernelBench:
    """Time every op at every size; op, copy and eager chain take turns, in random order.

    Args:
        dtype: dtype of the tensors.
        device: device of the tensors.
        sizes: bytes of one tensor.
        repeats: timed rounds.
        progress: called before each case with its name, the number of sizes done, and the number of sizes.

    Raises:
        DcacheError: `repeats` is below 1, or a size is not a multiple of the smallest tensor.
    """
    if repeats < 1:
        raise DcacheError(f"expected at least one timed round, got {repeats}")
    hardware, rows = machine(), []
    order = random.Random(0)
    with torch.no_grad():
        for i, size in enumerate(sizes):
            for case in chain(all_cases(size, dtype, device), cache_cases(size, dtype, device)):
                progress(f"{case.op}, {size >> 10} KiB", i, len(sizes))
                rows.append(_timed(case, size, device, repeats, order))
    return KernelBench(device, str(dtype).removeprefix("torch."), repeats, rows, hardware, versions())


def _timed(case: Case, size: int, device: str, repeats: int, order: random.Random) -> Timed:
    off = case.off()
    timers = [timer_of(run, device) for run in (case.run, case.copy(), case.eager)]
    counts = [calls_of(timer) for timer in timers]
    seconds: list[list[float]] = [[], [], []]
    for _ in range(repeats):
        for i in order.sample(range(3), 3):
            seconds[i].append(timers[i].timeit(counts[i]).mean)
    op, copy, eager = (statistics.median(turns) for turns in seconds)
    # Ratios within a round: a drift of the machine's speed cancels.
    of_copy, gain = (
        statistics.median(b / a for a, b in zip(seconds[0], turns, strict=True)) for turns in seconds[1:]
    )
    spread = (max(seconds[0]) - min(seconds[0])) / op
    return Timed(case.op, size, case.moved, case.kernel, op, copy, eager, of_copy, gain, spread, off)


def timer_of(run: Callable[[], Any], device: str) -> Timer:
    """A timer of one op, with torch's current number of threads."""

    def clock() -> float:
        if device != "cpu":
            # The measured device need not be the current one.
            torch.accelerator.synchronize(torch.device(device))
        return perf_counter()

    return Timer("run()", timer=clock, globals={"run": run}, num_threads=torch.get_num_threads())


def calls_of(timer: Timer) -> int:
    """Number of calls in a turn, estimated after a first call that compiles and allocates."""
    timer.timeit(1)
    return min(max(math.ceil(_TURN / max(timer.timeit(1).mean, 1e-9)), 1), _MOST_CALLS)
