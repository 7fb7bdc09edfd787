"""Several processes that share one evaluation.

    accelerate launch -m dcache.cli eval ...                                   a process for each GPU
    accelerate launch --multi_gpu --num_processes 2 -m dcache.cli eval ...     two, on CPUs too

On CPUs the pictures equal those of one process bit for bit if each process has as many threads as that one
(OMP_NUM_THREADS).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from dcache.errors import DcacheError
from dcache.eval.packages import require

Done = TypeVar("Done")
# Timeout of a wait. It is long, because one process may be busy for hours while the others wait for it.
PATIENCE = timedelta(days=7)


class ElsewhereError(DcacheError):
    """Another process failed, so this one stops too."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a launch, as seen from one of them.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        broadcast: errors that were sent to all processes.
    """

    rank: int = 0
    world_size: int = 1
    broadcast: list[Exception] = field(default_factory=list)

    @property
    def first(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    @property
    def place(self) -> tuple[int, int]:
        """Rank and world size."""
        return self.rank, self.world_size

    def barrier(self) -> None:
        """Wait until every process has reached this point."""
        self.all(lambda: None)

    def all(self, work: Callable[[], Done]) -> Done:
        """Run `work` in every process and wait for all; calls may be nested.

        Every process must make the same calls in the same order: each call is one exchange of messages.

        Raises:
            ElsewhereError: `work` failed in another process; has the message of the first that failed.
        """
        if self.world_size == 1:
            return work()
        try:
            done = work()
        except Exception as error:
            # An error from a nested call was sent to all processes already. Sending it twice would put the
            # exchanges of the processes out of step, and they would wait for each other forever.
            if not any(error is sent for sent in self.broadcast):
                self.broadcast.append(error)
                _gathered(str(error) or type(error).__name__)
            raise
        messages: list[str | None] = _gathered(None)
        for index, message in enumerate(messages):
            if message is not None:
                self.broadcast.append(
                    ElsewhereError(f"process {index} of {self.world_size} stopped: {message}")
                )
                raise self.broadcast[-1]
        return done

    def gather(self, mine: Done) -> list[Done]:
        """The values of all processes, in order of rank; every process gets the list.

        Raises:
            ElsewhereError: a process failed before it reached this point.
        """
        if self.world_size == 1:
            return [mine]
        self.barrier()
        return _gathered(mine)

    def main_first(self, work: Callable[[], Done]) -> Done:
        """Run `work` in process 0 first, then in the others, which find the files that it wrote.

        Raises:
            ElsewhereError: `work` failed in another process.
        """
        if self.first:
            done = self.all(work)
            self.barrier()
            return done
        self.barrier()
        return self.all(work)


def join(device: str = "auto") -> ProcessGroup:
    """The group of processes that this one was started in.

    Args:
        device: device of the work, as in `dcache.eval.settings.Settings`; it decides the backend of messages.

    Raises:
        DcacheError: there are several processes, and accelerate is not installed or cannot connect them.
    """
    if _alone():
        return ProcessGroup()
    require("bench", "a launch of several processes", "accelerate")
    import torch
    from accelerate import PartialState

    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    state = PartialState(cpu=on_cpu, timeout=PATIENCE)
    if str(state.num_processes) != os.environ["WORLD_SIZE"]:
        raise DcacheError(
            f"this is one of {os.environ['WORLD_SIZE']} processes, but accelerate connects only "
            f"{state.num_processes} on the device {device!r}: choose another device, or start one process"
        )
    return ProcessGroup(state.process_index, state.num_processes)


def own_device(device: str) -> str:
    """The device of this process; with several processes, `auto` and `cuda` mean a GPU for each."""
    if _alone() or device not in ("auto", "cuda"):
        return device
    from accelerate import PartialState

    return str(PartialState().device)


def _alone() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) < 2


def _gathered(message: Done) -> list[Done]:
    """The messages of all processes, in order of rank."""
    from accelerate.utils import gather_object

    messages: list[Done] = gather_object([message])
    return messages
