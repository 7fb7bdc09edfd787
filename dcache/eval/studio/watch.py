"""`Watch`: how far a pipeline's call is, why its sites were computed, and its end on request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import torch
from torch import nn

import dcache
from dcache.engine.call import Call
from dcache.engine.observe import Observer, is_observable, observe
from dcache.eval.entries import UNCACHED, BenchEntry
from dcache.identity.denoisers import denoisers
from dcache.identity.timestep import TimeArgument, number


class StoppedError(Exception):
    """A call was ended on request, between two evaluations."""


@dataclass
class Watch:
    """Follows the calls of one comparison.

    Attributes:
        report: called with side, phase, evaluation (from 1) and number of evaluations.
        stop: set to end the call under way before its next evaluation.
        side: "uncached" or "cached".
        phase: "warm-up" or "timed".
        done: evaluations that began in this call.
        total: evaluations that are expected.
        counts: whether the reasons are counted in this call, which takes time.
        reasons: of each evaluation of the last call: reason -> sites that were computed for it.
    """

    report: Callable[[str, str, int, int], None]
    stop: Event = field(default_factory=Event)
    side: str = ""
    phase: str = ""
    done: int = 0
    total: int = 0
    counts: bool = True
    reasons: list[dict[str, int]] = field(default_factory=list)
    _moment: float | torch.Tensor | None = None

    def begin(self, side: str, phase: str, total: int, counts: bool = True) -> None:
        """Another call begins.

        Raises:
            StoppedError: it was asked to end.
        """
        self.side, self.phase, self.total, self.counts = side, phase, total, counts
        self.done, self._moment, self.reasons = 0, None, []
        self.check()
        self.report(side, phase, 0, total)

    def check(self) -> None:
        """End the call if that was asked for.

        Raises:
            StoppedError: it was.
        """
        if self.stop.is_set():
            raise StoppedError

    def called(self, time: Any) -> None:
        """The denoiser is called with this timestep; further guidance branches have the same one.

        Raises:
            StoppedError: the call is to end.
        """
        self.check()
        moment = _moment(time)
        if self.done and _same(moment, self._moment):
            return
        # Kept, so that the memory of its tensor is not used for the next one.
        self._moment = moment
        self.done += 1
        self.total = max(self.total, self.done)
        self.reasons.append({})
        self.report(self.side, self.phase, self.done, self.total)


@dataclass(frozen=True)
class Watched(BenchEntry):
    """Another entry whose calls are watched.

    Attributes:
        entry: the entry.
        watch: who watches.
    """

    entry: BenchEntry = UNCACHED
    watch: Watch | None = None

    @staticmethod
    def of(entry: BenchEntry, watch: Watch) -> Watched:
        """The entry, watched; it keeps its texts."""
        return Watched(
            entry.spec, entry.label, entry.call, entry.note, entry.library, entry=entry, watch=watch
        )

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        """Enable the method inside the block, and watch the denoisers."""
        with self.entry.enabled(pipe), ExitStack() as stack:
            if self.watch is not None:
                for module in denoisers(pipe).values():
                    stack.enter_context(_watching(module, pipe, self.watch))
            yield

    def bytes_held(self, pipe: Any) -> int:
        """Bytes that the method's cache holds now."""
        return self.entry.bytes_held(pipe)

    def observe(self, pipe: Any) -> tuple[dcache.Stats | None, dcache.Schedule | None]:
        """Statistics and trace of the last call."""
        return self.entry.observe(pipe)


class _Watching(Observer):
    """Tells a watch of every call of a denoiser, and of the reasons that were counted in it."""

    sees_outputs = False

    def __init__(self, module: nn.Module, pipe: Any, watch: Watch) -> None:
        self.time, self.pipe, self.watch = TimeArgument(module), pipe, watch

    def around_call(self, denoise: Callable[[], Any]) -> Any:
        """Count the reasons of one call."""
        if not self.watch.counts:
            return denoise()
        before = Counter(dcache.stats(self.pipe).reasons)
        output = denoise()
        if self.watch.reasons:
            counted = Counter(dcache.stats(self.pipe).reasons) - before
            here = self.watch.reasons[-1]
            here.update({reason: here.get(reason, 0) + count for reason, count in counted.items()})
        return output

    def on_call(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Tell of a call's timestep."""
        self.watch.called(self.time.argument(args, kwargs))


@contextmanager
def _watching(module: nn.Module, pipe: Any, watch: Watch) -> Iterator[None]:
    """Watch a denoiser: as an observer where dcache is enabled, by a hook elsewhere."""
    if is_observable(module):
        with observe(module, _Watching(module, pipe, watch)):
            yield
        return
    time = TimeArgument(module)
    hook = module.register_forward_pre_hook(
        lambda _, args, kwargs: watch.called(time.argument(args, kwargs)), with_kwargs=True
    )
    try:
        yield
    finally:
        hook.remove()


def _moment(time: Any) -> float | torch.Tensor | None:
    """What tells a timestep from others: its number; on a GPU, whose memory is not read, the tensor."""
    return time if isinstance(time, torch.Tensor) and time.device.type != "cpu" else number(time)


def _same(moment: float | torch.Tensor | None, other: float | torch.Tensor | None) -> bool:
    """Whether both are of one evaluation; unknown ones are not."""
    if isinstance(moment, torch.Tensor):
        return isinstance(other, torch.Tensor) and moment.data_ptr() == other.data_ptr()
    return moment is not None and moment == other
