"""Several processes that do one evaluation together.

    accelerate launch -m dcache.cli eval ...                                   a process for each GPU
    accelerate launch --multi_gpu --num_processes 2 -m dcache.cli eval ...     two, on CPUs too

On CPUs the pictures are those of one process, bit for bit, where each has as many threads (OMP_NUM_THREADS).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from dcache.errors import DcacheError

Done = TypeVar("Done")
# One process may be busy while the others wait for it: no wait is cut short but by a process that dies.
PATIENCE = timedelta(days=7)


class ElsewhereError(DcacheError):
    """Another process failed, so this one stops too."""


@dataclass(frozen=True)
class ProcessGroup:
    """All processes, seen from one of them.

    Attributes:
        index: of this process, from 0.
        count: of processes.
        told: errors that all processes know of.
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
        """Index and count."""
        return self.rank, self.world_size

    def barrier(self) -> None:
        """Return when every process is here."""
        self.all(lambda: None)

    def all(self, work: Callable[[], Done]) -> Done:
        """Do something in every process, and return when all have done it; may be used inside itself.

        Raises:
            ElsewhereError: it failed in another process; the message is that of the first that did.
        """
        if self.world_size == 1:
            return work()
        try:
            done = work()
        except Exception as error:
            # One that comes from a `together` inside is known to everybody.
            if not any(error is one for one in self.broadcast):
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
        """What every process has, in the order of their indices, in every process.

        Raises:
            ElsewhereError: one of them failed before it came here.
        """
        if self.world_size == 1:
            return [mine]
        self.barrier()
        return _gathered(mine)

    def main_first(self, work: Callable[[], Done]) -> Done:
        """Do something in process 0 and then in the others, which find what it left.

        Raises:
            ElsewhereError: it failed in another process.
        """
        if self.first:
            done = self.all(work)
            self.barrier()
            return done
        self.barrier()
        return self.all(work)


def join(device: str = "auto") -> ProcessGroup:
    """The processes that this one was started with.

    Args:
        device: what they work on, as in `dcache.eval.settings.Settings`: they talk to each other through it.

    Raises:
        DcacheError: there are several, and accelerate is not installed or cannot connect them.
    """
    if _alone():
        return ProcessGroup()
    try:
        from accelerate import PartialState
    except ImportError:
        raise DcacheError("several processes need accelerate: pip install accelerate") from None
    import torch

    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    state = PartialState(cpu=on_cpu, timeout=PATIENCE)
    if str(state.num_processes) != os.environ["WORLD_SIZE"]:
        raise DcacheError(
            f"started as one of {os.environ['WORLD_SIZE']} processes, of which accelerate connects "
            f"{state.num_processes} on the device {device!r}: name another device, or start one process"
        )
    return ProcessGroup(state.process_index, state.num_processes)


def own_device(device: str) -> str:
    """The device of this process: with several processes, `auto` and `cuda` are a GPU for each."""
    if _alone() or device not in ("auto", "cuda"):
        return device
    from accelerate import PartialState

    return str(PartialState().device)


def _alone() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) < 2


def _gathered(message: Done) -> list[Done]:
    """Everybody's message."""
    from accelerate.utils import gather_object

    found: list[Done] = gather_object([message])
    return found
