"""Who renders the candidates of a search: this process, workers beside it, or the processes of a launch.

All give the same results in the same order, so the search goes the same way; on CPUs to the last bit where
every process has as many threads.
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
from dcache.search.loop import FIT, Task
from dcache.search.quality import QualityEvaluator

# Tasks of each process between two exchanges of a launch: a kill costs as many, all wait for the last.
ROUND = 4
_judge: QualityEvaluator | None = None


def done(judge: QualityEvaluator, schedule: Schedule, rung: int) -> dict[str, Any]:
    """One task: a rendering, or a fit of weights."""
    return judge.fit(schedule) if rung == FIT else judge.evaluate(schedule, rung)


class LocalEvaluator:
    """This process."""

    def __init__(self, judge: QualityEvaluator) -> None:
        self.own = judge

    def evaluate(self, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        """One after the other."""
        for schedule, rung in tasks:
            yield done(self.own, schedule, rung)


class DistributedEvaluator:
    """Every process of a launch takes its share; all of them know all results afterwards."""

    def __init__(self, judge: QualityEvaluator, team: processes.ProcessGroup) -> None:
        self.own, self.team = judge, team

    def evaluate(self, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        """Task i is that of process i modulo their number."""
        size = ROUND * self.team.world_size
        for start in range(0, len(tasks), size):
            yield from self._round(tasks[start : start + size])

    def _round(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        from accelerate.utils import gather_object

        index, count = self.team.place

        def share() -> list[tuple[int, dict[str, Any]]]:
            return [(i, done(self.own, *tasks[i])) for i in range(index, len(tasks), count)]

        found: dict[int, dict[str, Any]] = dict(gather_object(self.team.all(share)))
        return [found[i] for i in range(len(tasks))]


class ProcessPoolEvaluator:
    """Processes beside this one, each with a pipeline of its own.

    Args:
        make: makes the judge of a worker; a function of a module, or a `functools.partial` of one.
        count: how many.
        threads: of each.
    """

    def __init__(self, make: Callable[[], QualityEvaluator], count: int, threads: int) -> None:
        # A forked process inherits locks of torch's threads that nobody will open.
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(count, context, initializer=_begin, initargs=(make, threads))

    def evaluate(self, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        """Whoever is free takes the next.

        Raises:
            DcacheError: a worker died, or could not begin.
        """
        try:
            yield from self.pool.map(_work, tasks)
        except BrokenProcessPool:
            raise DcacheError(
                "a worker of the search died (too little memory for so many pipelines?). What the journal "
                "has is kept: run the same command with --resume, and fewer --workers"
            ) from None

    def close(self) -> None:
        """Let the workers go."""
        self.pool.shutdown(cancel_futures=True)


def _begin(make: Callable[[], QualityEvaluator], threads: int) -> None:
    global _judge  # noqa: PLW0603 - a worker is a process, and this is its state
    import torch

    # Ctrl-C is the first process's; it lets the workers go.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _judge = make()


def _leave_with_parent() -> None:
    """End this process when the one that started it is gone: a killed one tells nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(task: tuple[Schedule, int]) -> dict[str, Any]:
    if _judge is None:
        raise RuntimeError("a worker without a judge")
    return done(_judge, *task)
