"""Sums of many sites in one kernel launch.

A site that remembers values is predicted from its anchors alone, so its sum can be made before its turn. On
a GPU a launch costs more than a small sum, so there the first site predicted in a call also computes the sums
of the later ones that the rule will let be predicted: in one `weighted_sums`, or in few where they are large.
Each of them finds its leaves ready. What was made for a site that is not called after all is dropped at the
end of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch

from dcache.cache.history import History
from dcache.engine.call import Call
from dcache.engine.protocols import Lowered
from dcache.engine.region import Region
from dcache.kernels.weighted_sum import Job, weighted_sum, weighted_sums

# Most bytes that may wait for their sites' turns. Where one leaf is a share of that, its launch is too.
MOST_BYTES = 1 << 26

Made = list[torch.Tensor | None]


class Foreseeing(Protocol):
    """Says beforehand what will be predicted; `engine.decisions.Decisions` is one."""

    foreseen: set[str]

    def foresees(self, region: Lowered, call: Call, history: History) -> bool:
        """Whether a site that was not reached yet in this call will be predicted."""
        ...


class BatchedSums:
    """The sums of one call that are made before their sites' turns.

    Args:
        decisions: says which sites will be predicted.
        regions: the bound regions, looked up in every call.

    Attributes:
        waiting: sites that will be predicted in this call and are not summed yet, with their histories.
        ready: leaves that wait for their sites' turns; each is handed out once, and belongs to nobody else.
        held: bytes of what is ready.
        call: the one under way, if any site has asked in it.
    """

    def __init__(self, decisions: Foreseeing, regions: Callable[[], Sequence[Region]]) -> None:
        self.decisions = decisions
        self.regions = regions
        self.waiting: dict[Region, History] = {}
        self.ready: dict[Region, Made] = {}
        self.pending_bytes = 0
        self.call: Call | None = None

    def leaves(self, region: Region, call: Call) -> Made | None:
        """What a region on kernels predicts, if that is summed with others; None if it is to sum alone."""
        if self.call is not call:
            self._look_ahead(region, call)
        if region in self.waiting:
            self._sum(region, call)
        made = self.ready.pop(region, None)
        if made is not None:
            self.pending_bytes -= _bytes_of(made)
        return made

    def end_call(self) -> None:
        """The call is over: drop what was not used."""
        self.call = None
        self.pending_bytes = 0
        self.waiting.clear()
        self.ready.clear()
        self.decisions.foreseen.clear()

    def _look_ahead(self, first: Region, call: Call) -> None:
        """Note which regions are predicted from anchors alone: this one, and those whose turns will come."""
        self.end_call()
        self.call = call
        # In the order of the blocks, so that what is ready is soon used.
        for region in sorted(self.regions(), key=_depth):
            history = _anchors_alone(region, call)
            if region is not first and (
                region.decided_in is call
                or history is None
                or not self.decisions.foresees(region, call, history)
            ):
                continue
            for part in region.parts():
                history = _anchors_alone(part, call)
                if history is not None:
                    self.waiting[part] = history

    def _sum(self, first: Region, call: Call) -> None:
        """Make the sums of this region, and of as many others as may wait."""
        chosen: dict[Region, list[Job | None]] = {}
        total = self.pending_bytes
        for region in [first, *(r for r in self.waiting if r is not first)]:
            jobs = _jobs(region, call, self.waiting[region])
            size = sum(job.anchors[0].numel() * job.dtype.itemsize for job in jobs if job is not None)
            if chosen and total + size > MOST_BYTES:
                break
            chosen[region] = jobs
            total += size
        for region in chosen:
            del self.waiting[region]
        every = [job for jobs in chosen.values() for job in jobs if job is not None]
        if len(every) < 2:
            return
        sums = iter(weighted_sums(every))
        for region, jobs in chosen.items():
            if any(jobs):
                self.ready[region] = [None if job is None else next(sums) for job in jobs]
        self.pending_bytes = total


def _depth(region: Region) -> int:
    return region.site.first


def _bytes_of(made: Iterable[torch.Tensor | None]) -> int:
    return sum(leaf.nbytes for leaf in made if leaf is not None)


def _anchors_alone(region: Region, call: Call) -> History | None:
    """The history that a region is predicted from, where that is all it needs, and as it lies there."""
    if region.codec.is_delta or region.corrector is not None:
        return None
    history = call.branch.histories.get(region.key)
    if history is None or not history.leaves or history.half != (call.half is not None):
        return None
    return history


def _jobs(region: Region, call: Call, history: History) -> list[Job | None]:
    """The sum of each leaf, None for leaves that are not stored; none at all where it is no plain sum."""
    weights, anchors, summed = region.terms(call, history)
    if summed is not weighted_sum:
        return []
    return [
        Job(None, [a[i] for a in anchors], weights, region.dtypes[i])  # type: ignore[misc]
        if region.stores(newest, i)
        else None
        for i, newest in enumerate(anchors[-1])
    ]
