"""The run of each denoiser call: told by `dcache.step`, by a sampler, or by a loop's timesteps.

The samplers are those of the pipelines that the denoiser is enabled with, and, where none of these is under
way, the one found in the loop from which the denoiser is called (`guest.py`).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from threading import get_ident
from typing import Any, Protocol

from torch import nn

from dcache.identity.callers import CallMark
from dcache.identity.content import Conditioning, Continuity, Observation, Sample
from dcache.identity.guest import Guest
from dcache.identity.lengths import Lengths
from dcache.identity.listener import Listener
from dcache.identity.loop import Loop
from dcache.identity.manual import ManualStep
from dcache.identity.run import Run
from dcache.identity.sampler import ENDED, SamplerIntercept, is_sampler, tap
from dcache.identity.timestep import TimeArgument


class SamplerOwner(Protocol):
    """Interface: has a sampler.

    Attributes:
        pipe: the pipeline whose `scheduler` is the sampler.
    """

    pipe: weakref.ref[Any]


# Fields of a tracker that all threads share.
_SHARED = ("module", "listener", "owners", "time", "taps", "lengths", "learned")


class RunTracker:
    """Follows the samplers of the pipelines that one denoiser is part of.

    Args:
        module: the denoiser.
        listener: notified of what the samplers do.
        owners: the pipelines that the denoiser is part of; looked up in every call.

    Attributes:
        manual: what `dcache.step` said of the calls to come, or None.
        loop: follows a hand-written loop that has no sampler.
        sample, conditioning: what its last call and its run were given.
        observation: what the run's evaluations are conditioned on.
        continuity: whether the samples of two evaluations can belong to one run.
        time: where the denoiser takes its timestep.
        taps: the samplers of the owners.
        guest: the sampler of a loop that none of the owners runs.
        call_frame: what tells that call from others, where it did not say that it began.
        runs_of_call: runs that were opened in the pipeline's call under way, None outside of one.
        lengths: (sampler, entries of its table, where it began) -> evaluations of such a run, where they were
            others than the table lists.
        learned: lengths of earlier runs that no table lists.
    """

    def __init__(self, module: nn.Module, listener: Listener, owners: Sequence[SamplerOwner]) -> None:
        self.module = module
        self.listener = listener
        self.owners = owners
        self.manual: ManualStep | None = None
        self.loop = Loop()
        self.time = TimeArgument(module)
        self.taps: list[SamplerIntercept] = []
        self.runs_of_call: int | None = None
        self.call_frame: CallMark | None = None
        self.lengths: dict[tuple[str, int, int], int] = {}
        self.learned = Lengths()
        self.guest = Guest(listener)
        self.sample, self.conditioning, self.continuity = Sample(), Conditioning(), Continuity()
        self.observation = Observation(listener.unsteady)
        self._unseen: Run | None = None

    def run_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """The run of a call with these arguments.

        Raises:
            DcacheError: nothing tells evaluations apart.
        """
        if self.manual is not None:
            if self.manual.speaks_for(self.time.argument(args, kwargs), args, kwargs):
                return self.manual.run_of(args, kwargs)
            self.manual, self.loop = None, Loop()
        for owner in self.owners:
            sampler = getattr(owner.pipe(), "scheduler", None)
            # No function of ours, for its calls would count in every predicted step.
            for watched in self.taps:
                if watched.sampler is sampler:
                    break
            else:
                if sampler is not None and is_sampler(sampler):
                    self._retap(sampler)
        reference = self.guest.reference
        newest = None if reference is None else reference()
        if newest is not None and newest.run is None:
            newest = None
        thread = get_ident()
        for watched in self.taps:
            if watched.run is not None and (
                newest is None
                # A run of this thread comes before those of others.
                or (watched.thread == thread, watched.touched) > (newest.thread == thread, newest.touched)
            ):
                newest = watched
        if newest is None or newest.run is None:
            return self._run_without(args, kwargs)
        if newest.run.calls and newest.thread == thread and newest in self.taps:
            return newest.run
        return self._run_of(newest, newest.run, args, kwargs)

    def of_run(self) -> dict[str, Any]:
        """The fields that belong to one thread's run; the samplers and what was learned are everybody's."""
        return {name: value for name, value in vars(self).items() if name not in _SHARED}

    def restore(self, fields: Mapping[str, Any]) -> None:
        """Put those fields back; without any the tracker has seen no run."""
        fresh = RunTracker(self.module, self.listener, self.owners)
        vars(self).update(fields or fresh.of_run())

    def is_guest(self, run: Run) -> bool:
        """Whether a run is of a sampler that belongs to none of the owners."""
        guest = self.guest.intercept
        return guest is not None and guest.run is run

    def learn(self, run: Run, evaluations: int) -> None:
        """Note how many evaluations a run had that came to its end."""
        self.lengths[_table_of(run)] = evaluations

    def watch(self, sampler: Any) -> None:
        """Watch one more sampler."""
        self.taps.append(tap(sampler, self.listener))

    def forget(self, run: Run) -> None:
        """That run is over; a loop that just opened the next one is left to follow it."""
        if self.loop.run is run:
            self.loop = Loop()

    def reset(self) -> None:
        """The thread's run is over: nothing that was seen of it tells of the calls to come."""
        self.manual, self.loop = None, Loop()
        guest, thread = self.guest.intercept, get_ident()
        for watched in (*self.taps, *([] if guest is None else [guest])):
            # Another thread may use the denoiser with a sampler of its own.
            if watched.thread == thread:
                watched.close()

    def take_back(self, run: Run) -> None:
        """A call of the run failed: one that is made in its place is no further branch."""
        run.calls = max(0, run.calls - 1)
        if self.loop.run is run:
            self.loop.branches[-1] -= 1

    def leave(self) -> None:
        """Watch no sampler any more."""
        for watched in self.taps:
            watched.leave(self.listener)
        self.taps = []
        self.guest.dismiss()

    def _run_of(
        self, watched: SamplerIntercept, run: Run, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Run:
        """The run of the first call of an evaluation, or of any call in a guest's loop."""
        # The run may have been broken off, and the loop that calls now be another's.
        variable = self.guest.variable
        if run is not self._unseen and (variable is None or variable.sampler() is not watched.sampler):
            driving = self._driving(watched, args, kwargs)
            if driving is None or driving.run is None:
                return self._run_without(args, kwargs)
            watched, run = driving, driving.run
        if watched not in self.taps:
            followed = self.guest.follow(watched, run, self.time.read(args, kwargs))
            if followed is None:
                # The loop goes on without the sampler that was taken for its own.
                self.loop = Loop(None if run.index else self.guest.first)
                return self._run_without(args, kwargs)
            run = self.guest.observed(watched, followed, self.observation, (args, kwargs, self.time))
        if not run.started:
            begin = watched.begin_index()
            run.place(self.time.read(args, kwargs) if begin is None else None, begin)
            if _table_of(run) in self.lengths:
                run.expect(self.lengths[_table_of(run)])
        state = watched.sampler.__dict__
        if state.get(ENDED, 0) != watched.ended or state.get(watched.index_name) != watched.own_index:
            watched.follow(run)
        elif not run.calls:
            run.view = 0
            if run.starts and run.index:
                run.narrow(self.time.read(args, kwargs))
        return run

    def _run_without(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """The run of a call outside of all runs known so far: by its loop's sampler, else by timesteps."""
        before = self.loop.run
        run = None if before is None else self._seen_by_loop(args, kwargs)
        if run is not None and run is before:
            return run
        # A run opens: its sampler is looked for once.
        sampler = self.guest.search(None, partial(self.time.read, args, kwargs))
        if sampler is not None:
            self.loop = Loop()
            guest = self.guest.adopt(sampler)
            if guest.run is not None:
                return self._run_of(guest, guest.run, args, kwargs)
        return run or self._seen_by_loop(args, kwargs)

    def _seen_by_loop(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """The run of a call by its timestep.

        Other conditioning in the last picture's place opens one, and so does a sample that is not what a step
        can have made of the last evaluation's.
        """
        value, before, last = self.time.read(args, kwargs), self.loop.run, self.loop.value
        index = 0 if before is None else before.index
        if before is not None:
            # Nor is it a further branch where every evaluation before had fewer.
            broken = (value != last or self.loop.full) and self.continuity.is_broken(args, kwargs)
            if (
                self.conditioning.is_fresh(kwargs)
                and (value != last or not self.sample.is_same(args, kwargs))
            ) or (
                # Further calls with one timestep are guidance branches, which are given the same sample.
                (value != last or self.loop.full or (not index and not self.sample.is_same(args, kwargs)))
                and self.observation.differs(args, kwargs, self.time, value != last)
            ):
                self.loop = Loop()
            elif broken:
                self.loop = Loop(last if not index and value != last else None)
        # Guidance branches are given one sample; the stages of a second-order step are not.
        stage = value == self.loop.value and self.loop.full and not self.sample.is_same(args, kwargs)
        run = self.loop.see(value, self.time.is_sigma, stage)
        if run is before and run.index > index + 1:
            self.listener.joined(run)
        if run is not before:
            self.conditioning.restart(kwargs)
            self.observation.begin(args, kwargs, self.time)
            self.continuity = Continuity()
        if run is not before or value != last or stage:
            # Views of one large picture have samples of their own, in the same order in every evaluation.
            self.continuity.note(args, kwargs)
        self.sample.note(args, kwargs)
        return run

    def _driving(
        self, watched: SamplerIntercept, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> SamplerIntercept | None:
        """The sampler whose loop a call comes from: the one that is believed to, unless another is seen.

        Returns:
            None where a guest is believed to and its loop is not the one that calls.
        """
        sampler = self.guest.search(watched.sampler, partial(self.time.read, args, kwargs))
        if sampler is watched.sampler:
            return watched
        if sampler is not None:
            other = next((tapped for tapped in self.taps if tapped.sampler is sampler), None)
            if other is None:
                return self.guest.adopt(sampler)
            if other.run is None:
                other.open_from(sampler)
            return other
        if watched not in self.taps:
            return None
        # Its loop is spread over functions, or out of sight: it is believed for the rest of the run.
        self._unseen = watched.run
        return watched

    def _retap(self, sampler: Any) -> None:
        wanted = [getattr(owner.pipe(), "scheduler", None) for owner in self.owners]
        for old in self.taps:
            if all(old.sampler is not w for w in wanted):
                old.leave(self.listener)
        new = tap(sampler, self.listener)
        self.taps = [t for t in self.taps if self.listener in t.listeners and t is not new] + [new]
        if new.run is None:
            new.open_from(sampler)


def _table_of(run: Run) -> tuple[str, int, int]:
    return run.sampler, len(run.timesteps), run.start
