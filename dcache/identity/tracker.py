"""Identity: which run a denoiser call belongs to: told by `dcache.step`, a sampler, or a loop's timesteps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dcache.identity.loop import Loop
from dcache.identity.manual import Told
from dcache.identity.run import Run
from dcache.identity.sampler import SamplerTap, is_sampler, tap
from dcache.identity.timestep import TimeArgument

if TYPE_CHECKING:
    from dcache.engine.session import Session


class Identity:
    """Follows the samplers of the pipelines that one session's denoiser is part of.

    Attributes:
        told: what `dcache.step` said of the calls to come, or None.
        loop: follows a hand-written loop that no sampler tells of.
        time: where the denoiser takes its timestep.
        taps: the samplers that are watched.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.told: Told | None = None
        self.loop = Loop()
        self.time = TimeArgument(session.module)
        self.taps: list[SamplerTap] = []

    def run_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """The run of a call with these arguments.

        Raises:
            DcacheError: nothing tells evaluations apart.
        """
        if self.told is not None:
            return self.told.run
        newest: SamplerTap | None = None
        for ref in self.session.pipes:
            sampler = getattr(ref(), "scheduler", None)
            if sampler is not None and not self._taps_sampler(sampler) and is_sampler(sampler):
                self._retap(sampler)
        for found in self.taps:
            if found.run is not None and (newest is None or found.touched > newest.touched):
                newest = found
        if newest is None or newest.run is None:
            return self.loop.see(self.time.read(args, kwargs), self.time.is_sigma)
        run = newest.run
        if not run.started:
            begin = newest.begin_index()
            run.place(self.time.read(args, kwargs) if begin is None else None, begin)
        return run

    def _taps_sampler(self, sampler: Any) -> bool:
        # Not any(): a generator costs Python calls on every predicted step.
        for found in self.taps:  # noqa: SIM110
            if found.sampler is sampler:
                return True
        return False

    def _retap(self, sampler: Any) -> None:
        wanted = [getattr(ref(), "scheduler", None) for ref in self.session.pipes]
        for old in self.taps:
            if all(old.sampler is not w for w in wanted):
                old.leave(self.session)
        new = tap(sampler, self.session)
        self.taps = [t for t in self.taps if self.session in t.listeners and t is not new] + [new]
        if new.run is None:
            new.open_from(sampler)

    def forget(self, run: Run) -> None:
        """That run is over; a loop that just opened the next one is left to follow it."""
        if self.loop.run is run:
            self.loop = Loop()

    def leave(self) -> None:
        """Watch no sampler any more."""
        for found in self.taps:
            found.leave(self.session)
        self.taps = []
