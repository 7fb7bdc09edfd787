"""The sampler of a loop that no pipeline known to the denoiser runs: a guest, for as long as it drives it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from dcache.identity.callers import LoopVariable, find_sampler
from dcache.identity.content import Observation
from dcache.identity.listener import Listener
from dcache.identity.run import Run
from dcache.identity.sampler import SamplerIntercept, tap
from dcache.identity.timestep import TimeArgument


class Guest:
    """Finds the sampler of the loop that calls, and watches it without keeping it alive.

    Args:
        listener: notified of what the sampler does.

    Attributes:
        variable: where the loop has its sampler, a pipeline's as well; None where that was not seen.
        reference: the guest's intercept, None without a guest.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.variable: LoopVariable | None = None
        self.reference: weakref.ref[SamplerIntercept] | None = None
        self._life: weakref.ref[Any] | None = None
        self._idle: weakref.ref[Any] | None = None
        self._times: list[float] = []

    @property
    def intercept(self) -> SamplerIntercept | None:
        """The sampler's intercept, None without a guest."""
        return None if self.reference is None else self.reference()

    @property
    def first(self) -> float | None:
        """Timestep of the first evaluation of the guest's run, None where that was not read."""
        return self._times[0] if self._times else None

    def search(self, wanted: Any, timestep: Callable[[], float | None]) -> Any:
        """The sampler that drives the loop from which the denoiser is called, None where none is seen.

        Args:
            wanted: the sampler that is meant where the loop has several.
            timestep: reads what the denoiser is called with.
        """
        place = find_sampler(wanted, timestep)
        if place is None or (self._idle is not None and place[0] is self._idle()):
            self.variable = None
            return None
        self.variable = place[1]
        return place[0]

    def adopt(self, sampler: Any) -> SamplerIntercept:
        """Watch this sampler, in place of the last guest; a run is open afterwards.

        Raises:
            DcacheError: it drives a loop in another thread.
        """
        guest = self.intercept
        if guest is None or guest.sampler is not sampler:
            self.listener.refuse_other_thread(sampler)
            self.dismiss()
            guest = tap(sampler, self.listener)
            listener = weakref.ref(self.listener)

            def died(_: Any) -> None:
                alive = listener()
                if alive is not None:
                    alive.orphaned()

            self.reference, self._life = weakref.ref(guest), weakref.ref(sampler, died)
        if guest.run is None or guest.run.over:
            guest.open_from(sampler)
            self._times = []
        return guest

    def follow(self, guest: SamplerIntercept, run: Run, value: float | None) -> Run | None:
        """The run of a call with this timestep; None if the sampler does not drive the loop.

        A sampler may be within reach of a loop that does without it; one without an index of its own (DDIM)
        may be walked again without `set_timesteps`.
        """
        times = self._times
        if not run.calls and not run.index:
            times.clear()
        if value is None or (times and times[-1] == value):
            return run
        times.append(value)
        if run.calls and not guest.unseen_step(run, value):
            # Another timestep, and the sampler did not step.
            self._idle = weakref.ref(guest.sampler)
            self.dismiss()
            return None
        if len(times) > 2 and value == times[0] and not run.repeats:
            self._times = [value]
            return guest.open_from(guest.sampler)
        return run

    def observed(
        self, guest: SamplerIntercept, run: Run, observation: Observation, call: tuple[Any, Any, TimeArgument]
    ) -> Run:
        """The run of a call in the sampler's loop; a new one where it is conditioned on something else.

        A loop may be left, and the sampler walked again from where it stands (a warm start).

        Args:
            guest: the sampler's intercept.
            run: the run under way.
            observation: what that is conditioned on.
            call: positional and keyword arguments of the call, and where it has its timestep.
        """
        opens = not run.started
        if run.index and not run.calls and observation.differs(*call):
            run, opens = guest.open_from(guest.sampler), True
        if opens:
            observation.begin(*call)
        return run

    def dismiss(self) -> None:
        """Watch it no more."""
        guest = self.intercept
        if guest is not None:
            guest.leave(self.listener)
        self.reference = self._life = None
