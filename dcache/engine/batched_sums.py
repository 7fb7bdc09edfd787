"""Many sites, one launch: the first site that predicts in a call has the sums of others made with its own.

A site that remembers values is predicted from its anchors alone, so its sum can be made before its turn. On a
GPU a launch costs more than a small sum, so there all sites that the rule will let be predicted in this call
are summed by one `weighted_sums`, or by few where they are large; each finds its leaves ready. What was made
for a site that is not called after all is dropped at the end of the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dcache.kernels.weighted_sum import Job, weighted_sum, weighted_sums

if TYPE_CHECKING:
    from dcache.cache.history import History
    from dcache.engine.call import Call
    from dcache.engine.region import Region
    from dcache.engine.session import Session

# Most bytes that may wait for their sites' turns. Where one leaf is a share of that, its launch is too.
MOST_BYTES = 1 << 26

Made = list[torch.Tensor | None]


class Together:
    """The sums of one call that are made before their sites' turns.

    Attributes:
        waiting: sites that will be predicted in this call and are not summed yet, with their histories.
        ready: leaves that wait for their sites' turns; each is handed out once, and belongs to nobody else.
        held: bytes of what is ready.
        call: the one under way, if any site has asked in it.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.waiting: dict[Region, History] = {}
        self.ready: dict[Region, Made] = {}
        self.held = 0
        self.call: Call | None = None

    def leaves(self, region: Region, call: Call) -> Made | None:
        """What a region on kernels predicts, if that is summed with others; None if it is to sum alone."""
        if self.call is not call:
            self._look_ahead(region, call)
        if region in self.waiting:
            self._sum(region, call)
        made = self.ready.pop(region, None)
        if made is not None:
            self.held -= _bytes_of(made)
        return made

    def rest(self) -> None:
        """The call is over: forget what nobody asked for."""
        self.call = None
        self.held = 0
        self.waiting.clear()
        self.ready.clear()
        self.session.decisions.foreseen.clear()

    def _look_ahead(self, first: Region, call: Call) -> None:
        """Note which regions are predicted from anchors alone: this one, and those whose turns will come."""
        self.rest()
        self.call = call
        decisions, guidance = self.session.decisions, self.session.binding.guidance
        # In the order of the blocks, so that what is ready is soon asked for.
        for region in sorted(self.session.binding.regions, key=_depth):
            if region is guidance:
                continue
            history = _anchors_alone(region, call)
            if region is not first and (
                region.decided_in is call or history is None or not decisions.foresees(region, call, history)
            ):
                continue
            for one in (region, *region.again):
                history = _anchors_alone(one, call)
                if history is not None:
                    self.waiting[one] = history

    def _sum(self, first: Region, call: Call) -> None:
        """Make the sums of this region, and of as many others as may wait."""
        found: dict[Region, list[Job | None]] = {}
        total = self.held
        for region in [first, *(r for r in self.waiting if r is not first)]:
            jobs = _jobs(region, call, self.waiting[region])
            size = sum(job.anchors[0].numel() * job.dtype.itemsize for job in jobs if job is not None)
            if found and total + size > MOST_BYTES:
                break
            found[region] = jobs
            total += size
        for region in found:
            del self.waiting[region]
        every = [job for jobs in found.values() for job in jobs if job is not None]
        if len(every) < 2:
            return
        sums = iter(weighted_sums(every))
        for region, jobs in found.items():
            if any(jobs):
                self.ready[region] = [None if job is None else next(sums) for job in jobs]
        self.held = total


def _depth(region: Region) -> int:
    return region.site.first


def _anchors_alone(region: Region, call: Call) -> History | None:
    """The history that a region is predicted from, where that is all it needs, and as it lies there."""
    if region.codec.is_delta or region.corrector is not None:
        return None
    history = call.branch.histories.get(region.key)
    if history is None or not history.leaves or history.half != (call.half is not None):
        return None
    return history


def _bytes_of(made: Made) -> int:
    return sum(leaf.nbytes for leaf in made if leaf is not None)


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
