"""What `dcache.step` tells of the calls to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dcache.identity.content import Continuity, Sample
from dcache.identity.run import Run
from dcache.identity.timestep import number

# In a first evaluation nothing tells yet how many timesteps a step of the loop's own sampler has.
_MOST_AT_FIRST = 3


@dataclass
class ManualStep:
    """The evaluation and guidance branch that `dcache.step` announced for the next calls.

    Attributes:
        run: the run that they belong to.
        branch: name of their guidance branch, None where their ordinal names it.
        seen: branches that the evaluation under way was announced for, "" for an unnamed one.
        unsure: whether the first evaluation was announced again without a branch: the next call is either a
            further branch of it, or the first of another run.
        sample: that of the first call.
        said: whether the next call was announced, and none has come since.
        times: timestep arguments of the calls of the evaluation under way.
        before: the first of them in the evaluation before, None without one.
        most: most different timesteps of one evaluation so far (a second-order sampler has two).
        first: the sample of the run's first call.
    """

    run: Run
    branch: str | None
    seen: set[str] = field(default_factory=set)
    unsure: bool = False
    sample: Sample = field(default_factory=Sample)
    said: bool = True
    times: list[Any] = field(default_factory=list)
    before: Any = None
    most: int = 1
    first: Continuity = field(default_factory=Continuity)

    def announce(self, index: int, branch: str | None) -> bool:
        """Take the next announcement of this run; False where it opens another one.

        Args:
            index: the evaluation, from 0.
            branch: name of the guidance branch, or None.
        """
        called_again = self.run.calls > 0 and (branch or "") in self.seen
        if index < self.run.index or (index == self.run.index == 0 and called_again and branch is not None):
            return False
        self.unsure = index == self.run.index == 0 and called_again
        if index != self.run.index:
            self.run.index = index
            self.run.calls = 0
            self.seen.clear()
            self.before = self.times[0] if self.times else None
            self.times = []
        self.said, self.branch = True, branch
        self.seen.add(branch or "")
        return True

    def speaks_for(self, timestep: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether what was announced holds for a call; a loop may go on, or another begin, without a word.

        An evaluation may have several calls, of equal timesteps (guidance) or of as many as those before it.
        In the first one nothing tells how many, but the sample whether they are of one picture.

        Args:
            timestep: the call's timestep argument. It is read (one sync on a GPU) only where the call was not
                announced.
            args: positional arguments of the call.
            kwargs: keyword arguments of the call.
        """
        first = not self.run.index
        if first and self.said and not self.times:
            self.first.note(args, kwargs)
        elif not self.said and (
            not self._has_room_for(number(timestep)) or (first and self.first.is_broken(args, kwargs))
        ):
            return False
        self.said = False
        # A loop may write every timestep into one tensor.
        self.times.append(timestep.detach().clone() if isinstance(timestep, torch.Tensor) else timestep)
        return True

    def _has_room_for(self, value: float | None) -> bool:
        values = [number(time) for time in self.times]
        if value is None or None in values or value in values:
            return True
        count, first, before = len(set(values)) + 1, values[0] if values else None, number(self.before)
        if first is not None and before is not None and (value > first) != (first > before):
            return False
        if count > (self.most if self.run.index else _MOST_AT_FIRST):
            return False
        self.most = max(self.most, count)
        return True

    def run_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """The run of a call.

        Branches of one evaluation are given the same sample; a run that broke off in its first evaluation and
        the next one are not.
        """
        if self.run.index or self.branch is not None:
            return self.run
        if not self.run.calls:
            self.sample.note(args, kwargs)
        elif self.unsure and not self.sample.is_same(args, kwargs):
            announced = dict(self.run.told)
            self.run = Run(started=True, count=self.run.count, flow=self.run.flow, told=announced)
            self.sample.note(args, kwargs)
            self.times, self.before, self.most = self.times[-1:], None, 1
            self.first.note(args, kwargs)
        self.unsure = False
        return self.run
