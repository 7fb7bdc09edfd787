"""Where candidates are rendered: in this process, in a pool of workers, or in the processes of a launch.

All evaluators yield the same results in the same order, so the search takes the same course; on CPUs bit for
bit if every process has as many threads.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from dcache.errors import DcacheError
from dcache.eval import processes
from dcache.schedule import Schedule
from dcache.search.evaluating.loop import FIT, Task
from dcache.search.evaluating.quality import QualityEvaluator

# Tasks of each process between two exchanges of a launch. Results are logged at the exchange: a larger round
# loses more to a kill, in a smaller one the processes wait for each other more often.
ROUND = 4
_worker: QualityEvaluator | None = None


def run_task(quality: QualityEvaluator, schedule: Schedule, rung: int) -> dict[str, Any]:
    """Result of one task: a rendering, or a fit of weights (`rung` is `FIT`)."""
    return quality.fit(schedule) if rung == FIT else quality.evaluate(schedule, rung)


class LocalEvaluator:
    """Renders in this process."""

    def __init__(self, quality: QualityEvaluator) -> None:
        self.quality = quality

    def evaluate(self, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        """Run the tasks one after the other."""
        for schedule, rung in tasks:
            yield run_task(self.quality, schedule, rung)


class DistributedEvaluator:
    """Splits tasks over the processes of a launch; every process gets all results."""

    def __init__(self, quality: QualityEvaluator, group: processes.ProcessGroup) -> None:
        self.quality, self.group = quality, group

    def evaluate(self, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        """Run the tasks; task i runs in the process of rank i modulo the world size."""
        size = ROUND * self.group.world_size
        for start in range(0, len(tasks), size):
            yield from self._round(tasks[start : start + size])

    def _round(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        from accelerate.utils import gather_object

        rank, count = self.group.place

        def share() -> list[tuple[int, dict[str, Any]]]:
            return [(i, run_task(self.quality, *tasks[i])) for i in range(rank, len(tasks), count)]

        results: dict[int, dict[str, Any]] = dict(gather_object(self.group.all(share)))
        return [results[i] for i in range(len(tasks))]


class ProcessPoolEvaluator:
    """Renders in worker processes, each with a pipeline of its own.

    Args:
        make: makes the quality evaluator of a worker; must be picklable: a function of a module, or a
            `functools.partial` of one.
        count: number of workers.
        threads: torch threads of each worker.
    """

    def __init__(self, make: Callable[[], QualityEvaluator], count: int, threads: int) -> None:
        # A forked process inherits locks that torch's threads held, and no thread that would release them.
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(count, context, initializer=_begin, initargs=(make, threads))

    def evaluate(self, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        """Run the tasks; each goes to the next free worker.

        Raises:
            DcacheError: a worker died, or failed to start.
        """
        try:
            yield from self.pool.map(_work, tasks)
        except BrokenProcessPool:
            raise DcacheError(
                "a worker of the search died (too little memory for so many pipelines?). Results in the "
                "journal are safe: run the same command with --resume, and fewer --workers"
            ) from None

    def close(self) -> None:
        """Stop the workers; tasks that have not begun are cancelled."""
        self.pool.shutdown(cancel_futures=True)


def _begin(make: Callable[[], QualityEvaluator], threads: int) -> None:
    global _worker  # noqa: PLW0603 - a worker is a process, and this is its state
    import torch

    # Ctrl-C reaches every process of the terminal. Only the first handles it, and then stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _worker = make()


def _leave_with_parent() -> None:
    """End this worker when its parent is gone: a parent that is killed (SIGKILL) cannot stop its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(task: tuple[Schedule, int]) -> dict[str, Any]:
    if _worker is None:
        raise RuntimeError("the worker has not been initialised")
    return run_task(_worker, *task)
