"""The run of each denoiser call: said by `dcache.step`, by a sampler, or by a loop's timesteps."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from threading import get_ident
from typing import Any, Protocol

from torch import nn

from dcache.identity.loop import Loop
from dcache.identity.manual import ManualStep
from dcache.identity.run import Run
from dcache.identity.sampler import Listener, SamplerIntercept, is_sampler, tap
from dcache.identity.timestep import TimeArgument


class SamplerOwner(Protocol):
    """What has a sampler.

    Attributes:
        pipe: the pipeline whose `scheduler` is the sampler.
    """

    pipe: weakref.ref[Any]


class RunTracker:
    """Follows the samplers of the pipelines that one denoiser is part of.

    Args:
        module: the denoiser.
        listener: notified of what the samplers do.
        owners: the pipelines that the denoiser is part of; looked up in every call.

    Attributes:
        told: what `dcache.step` said of the calls to come, or None.
        loop: follows a hand-written loop that has no sampler.
        time: where the denoiser takes its timestep.
        taps: the samplers that are watched.
    """

    def __init__(self, module: nn.Module, listener: Listener, owners: Sequence[SamplerOwner]) -> None:
        self.listener = listener
        self.owners = owners
        self.manual: ManualStep | None = None
        self.loop = Loop()
        self.time = TimeArgument(module)
        self.taps: list[SamplerIntercept] = []

    def run_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """The run of a call with these arguments.

        Raises:
            DcacheError: nothing tells evaluations apart.
        """
        if self.manual is not None:
            return self.manual.run
        newest: SamplerIntercept | None = None
        for owner in self.owners:
            sampler = getattr(owner.pipe(), "scheduler", None)
            if sampler is not None and not self._taps_sampler(sampler) and is_sampler(sampler):
                self._retap(sampler)
        thread = get_ident()
        for watched in self.taps:
            if watched.run is not None and (
                newest is None
                # A run of this thread comes before those of others.
                or (watched.thread == thread, watched.touched) > (newest.thread == thread, newest.touched)
            ):
                newest = watched
        if newest is None or newest.run is None:
            return self.loop.see(self.time.read(args, kwargs), self.time.is_sigma)
        run = newest.run
        if not run.started:
            begin = newest.begin_index()
            run.place(self.time.read(args, kwargs) if begin is None else None, begin)
        return run

    def watch(self, sampler: Any) -> None:
        """Watch one more sampler."""
        self.taps.append(tap(sampler, self.listener))

    def forget(self, run: Run) -> None:
        """That run is over; a loop that just opened the next one is left to follow it."""
        if self.loop.run is run:
            self.loop = Loop()

    def leave(self) -> None:
        """Watch no sampler any more."""
        for watched in self.taps:
            watched.leave(self.listener)
        self.taps = []

    def _taps_sampler(self, sampler: Any) -> bool:
        # Not any(): a generator costs Python calls on every predicted step.
        for watched in self.taps:  # noqa: SIM110
            if watched.sampler is sampler:
                return True
        return False

    def _retap(self, sampler: Any) -> None:
        wanted = [getattr(owner.pipe(), "scheduler", None) for owner in self.owners]
        for old in self.taps:
            if all(old.sampler is not w for w in wanted):
                old.leave(self.listener)
        new = tap(sampler, self.listener)
        self.taps = [t for t in self.taps if self.listener in t.listeners and t is not new] + [new]
        if new.run is None:
            new.open_from(sampler)
