"""Predictions of many sites in one kernel launch.

Under the codec `value` a prediction depends on the anchors alone, so it can be computed before the site is
reached. On a GPU a launch costs more than a small sum. So the first site predicted in a call also computes
the predictions of the later sites, in one `weighted_sums`, or in a few if they are large. Later sites take
their outputs from `ready`. Outputs of sites that are not called are dropped at the end of the call.
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

# Most bytes of outputs that are computed ahead. Of larger sums the launch is a small share.
MOST_BYTES = 1 << 26

# The predicted outputs of one site, None for those that are not stored.
Sums = list[torch.Tensor | None]


class Lookahead(Protocol):
    """Decides in advance which sites will be predicted, as `engine.decisions.Decisions` does."""

    foreseen: set[str]

    def foresees(self, region: Lowered, call: Call, history: History) -> bool:
        """True if a site that was not reached yet in this call will be predicted."""
        ...


class BatchedSums:
    """The outputs of one call that are computed before their sites are reached.

    Args:
        decisions: decides which sites will be predicted.
        regions: returns the bound regions; called once per call.

    Attributes:
        waiting: regions that will be predicted in this call and are not computed yet, with their histories.
        ready: computed outputs of regions that were not reached yet; each is handed out once.
        pending_bytes: bytes of `ready`.
        call: the call in which a site was predicted last, None between calls.
    """

    def __init__(self, decisions: Lookahead, regions: Callable[[], Sequence[Region]]) -> None:
        self.decisions = decisions
        self.regions = regions
        self.waiting: dict[Region, History] = {}
        self.ready: dict[Region, Sums] = {}
        self.pending_bytes = 0
        self.call: Call | None = None

    def leaves(self, region: Region, call: Call) -> Sums | None:
        """The predicted outputs of a region; None if the region has to compute them itself."""
        if self.call is not call:
            self._look_ahead(region, call)
        if region in self.waiting:
            self._sum(region, call)
        outputs = self.ready.pop(region, None)
        if outputs is not None:
            self.pending_bytes -= _bytes_of(outputs)
        return outputs

    def end_call(self) -> None:
        """End the call: drop outputs that were not used."""
        self.call = None
        self.pending_bytes = 0
        self.waiting.clear()
        self.ready.clear()
        self.decisions.foreseen.clear()

    def _look_ahead(self, first: Region, call: Call) -> None:
        """Collect the regions that are predicted from anchors alone: this one, and those not reached yet."""
        self.end_call()
        self.call = call
        # In the order of the blocks, so that outputs are used soon after they are computed.
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
        """Compute the outputs of this region, and of as many others as `MOST_BYTES` allows."""
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
        # A single sum is no faster here: the region computes it itself.
        if len(every) < 2:
            return
        sums = iter(weighted_sums(every))
        for region, jobs in chosen.items():
            if any(jobs):
                self.ready[region] = [None if job is None else next(sums) for job in jobs]
        self.pending_bytes = total


def _depth(region: Region) -> int:
    return region.site.first


def _bytes_of(outputs: Iterable[torch.Tensor | None]) -> int:
    return sum(leaf.nbytes for leaf in outputs if leaf is not None)


def _anchors_alone(region: Region, call: Call) -> History | None:
    """The region's history, if its prediction needs nothing else and the anchors have the call's rows."""
    if region.codec.is_delta or region.corrector is not None:
        return None
    history = call.branch.histories.get(region.key)
    if history is None or not history.leaves or history.half != (call.half is not None):
        return None
    return history


def _jobs(region: Region, call: Call, history: History) -> list[Job | None]:
    """A sum for each output, None for outputs that are not stored; empty if it is no plain weighted sum."""
    weights, anchors, summed = region.terms(call, history)
    if summed is not weighted_sum:
        return []
    return [
        Job(None, [a[i] for a in anchors], weights, region.dtypes[i])  # type: ignore[misc]
        if region.stores(newest, i)
        else None
        for i, newest in enumerate(anchors[-1])
    ]
