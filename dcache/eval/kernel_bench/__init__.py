"""The ops of `dcache.kernels` timed, each beside a copy of as many bytes and the eager chain it replaces.

What limits all of them is memory, so the copy is the ceiling: an op that moves B bytes is compared with a
copy that reads B / 2 and writes B / 2. The eager chain is the same arithmetic as one writes it in torch.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch.utils.benchmark import Timer

from dcache.errors import DcacheError
from dcache.eval.kernel_bench.cases import Case, all_cases
from dcache.eval.machine import machine, versions
from dcache.eval.progress import Progress, silent

SIZES = (1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26)

# A turn takes about so many seconds, by repeating the call as often in every round.
_TURN = 2e-3
_MOST_CALLS = 2000


@dataclass(frozen=True)
class Timed:
    """One op at one size. Seconds and ratios are medians over the rounds; a ratio is of one round.

    Attributes:
        op: what is measured.
        size: bytes of one whole tensor of its, in the dtype of the computation.
        moved: bytes that it reads and writes.
        kernel: whether a Triton kernel ran, or the torch reference.
        seconds, copy_seconds, eager_seconds: of one call.
        of_copy: share of the copy's rate.
        gain: how many times as fast as the eager chain.
        spread: (slowest - fastest) / median of its turns.
        off: largest difference to the eager chain's result, as a share of that one's largest magnitude.
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
    tell: Progress = silent,
) -> KernelBench:
    """Time every op at every size; op, copy and eager chain take turns, each round in another order.

    Args:
        dtype: of the tensors.
        device: where they are.
        sizes: bytes of one tensor.
        repeats: rounds.
        tell: called before each case.

    Raises:
        DcacheError: there are no rounds, or a size is not a whole number of the cases' tensors.
    """
    if repeats < 1:
        raise DcacheError(f"expected at least one timed round, got {repeats}")
    hardware, rows = machine(), []
    order = random.Random(0)
    with torch.no_grad():
        for i, size in enumerate(sizes):
            for case in all_cases(size, dtype, device):
                tell(f"{case.op}, {size >> 10} KiB", i, len(sizes))
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
    own, copy, eager = (statistics.median(its) for its in seconds)
    # A machine that slows down slows all of a round.
    of_copy, gain = (
        statistics.median(b / a for a, b in zip(seconds[0], its, strict=True)) for its in seconds[1:]
    )
    spread = (max(seconds[0]) - min(seconds[0])) / own
    return Timed(case.op, size, case.moved, case.kernel, own, copy, eager, of_copy, gain, spread, off)


def timer_of(run: Callable[[], Any], device: str) -> Timer:
    """A timer of one op, on as many threads as the rest of the program."""

    def clock() -> float:
        if device != "cpu":
            # Of several GPUs the one that is measured, whichever is the current one.
            torch.accelerator.synchronize(torch.device(device))
        return perf_counter()

    return Timer("run()", timer=clock, globals={"run": run}, num_threads=torch.get_num_threads())


def calls_of(timer: Timer) -> int:
    """How many calls a turn has; the first ones, which compile and allocate, do not count."""
    timer.timeit(1)
    return min(max(math.ceil(_TURN / max(timer.timeit(1).mean, 1e-9)), 1), _MOST_CALLS)
