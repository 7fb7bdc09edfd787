"""What `dcache.step` tells of the calls to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dcache.identity.content import Sample
from dcache.identity.run import Run


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
    """

    run: Run
    branch: str | None
    seen: set[str] = field(default_factory=set)
    unsure: bool = False
    sample: Sample = field(default_factory=Sample)

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
        self.branch = branch
        self.seen.add(branch or "")
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
        self.unsure = False
        return self.run
