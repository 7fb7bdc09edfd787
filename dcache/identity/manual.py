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
# Evaluations that are kept at which runs that were left may go on.
_MOST_RIVALS = 8


@dataclass
class ManualStep:
    """The evaluation and guidance branch that `dcache.step` announced for the next calls.

    Attributes:
        run: the run that they belong to.
        branch: name of their guidance branch, None where their ordinal names it.
        seen: branches that the evaluation under way was announced for, "" for an unnamed one.
        unsure: whether the evaluation was announced again for a branch that was called: the next call is
            either made once more, a further branch of it, or one of another run.
        sample: that of the first call.
        said: whether the next call was announced, and none has come since.
        times: timestep arguments of the calls of the evaluation under way.
        before: the first of them in the evaluation before, None without one.
        most: most different timesteps of one evaluation so far (a second-order sampler has two).
        first: the sample of the run's first call.
        rivals: evaluations with which runs that were left may go on in this one's place, the newest last.
        samples: branch -> sample of the evaluation under way, where a rival may go on with it or the next.
        earlier: the same of the evaluation before.
        steps: evaluations of the run, as announced.
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
    rivals: tuple[int, ...] = ()
    samples: dict[str, Continuity] = field(default_factory=dict)
    earlier: dict[str, Continuity] = field(default_factory=dict)
    steps: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.steps = self.run.count

    def announce(self, index: int, branch: str | None, steps: int | None = None) -> bool:
        """Take the next announcement of this run; False where it opens another one.

        Args:
            index: the evaluation, from 0.
            branch: name of the guidance branch, or None.
            steps: number of evaluations, or None.
        """
        run = self.run
        called_again = run.calls > 0 and (branch or "") in self.seen
        # A length may be announced once and left out behind that.
        of_other_length = steps not in (None, self.steps) and (self.steps is not None or not run.calls)
        left_before = index > run.index + 1 and index in self.rivals
        opens = index == run.index == 0 and called_again and branch is not None
        if index < run.index or of_other_length or left_before or opens:
            return False
        self.unsure = index == run.index and called_again
        if index != run.index:
            run.index, run.calls = index, 0
            self.seen.clear()
            self.earlier, self.samples = self.samples, {}
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
        the next one are not. Nor can a loop that was left go on in another's place: its sample is not what a
        step can have made of the other's.
        """
        index, unsure, self.unsure = self.run.index, self.unsure, False
        if not index and self.branch is None:
            if not self.run.calls:
                self.sample.note(args, kwargs)
            elif unsure and not self.sample.is_same(args, kwargs):
                self._reopen(args, kwargs)
                self.sample.note(args, kwargs)
        if index in self.rivals or index + 1 in self.rivals:
            self._compare(unsure, args, kwargs)
        return self.run

    def left(self) -> tuple[int, ...]:
        """The evaluations with which this run, and those that were left before it, may go on."""
        run = self.run
        if self.steps is not None and run.index >= self.steps - 1:
            return self.rivals
        resumes = run.index + 1 if run.calls else run.index
        return (*(rival for rival in self.rivals if rival != resumes), resumes)[-_MOST_RIVALS:]

    def _compare(self, unsure: bool, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Compare a call's sample with the one that it must have come of (one sync), and remember it."""
        name, rival = self.branch or "", self.run.index in self.rivals
        known = name in self.samples
        before = (self.samples if known else self.earlier).get(name)
        compares = rival and before is not None and (unsure or not known)
        if compares and before is not None and before.is_broken(args, kwargs):
            self._reopen(args, kwargs)
            known = False
        if not known:
            self.samples[name] = Continuity()
            self.samples[name].note(args, kwargs)

    def _reopen(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """The call under way is another run's."""
        before = self.run
        self.rivals = self.left()
        announced = {i: values for i, values in before.told.items() if i == before.index}
        self.run = Run(started=True, count=before.count, flow=before.flow, index=before.index, told=announced)
        self.times, self.before, self.most = self.times[-1:], None, 1
        self.samples, self.earlier = {}, {}
        self.first.note(args, kwargs)


def following(before: ManualStep | None, run: Run, branch: str | None) -> ManualStep:
    """The announcements of a run that opens; the run before it may be left rather than over."""
    return ManualStep(run, branch, rivals=() if before is None else before.left())
