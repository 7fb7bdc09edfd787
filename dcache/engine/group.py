"""`GroupRegion`: the region of the reference lowering, with one decision for several regions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from dcache.cache.history import History
from dcache.engine.call import Call
from dcache.engine.protocols import Engine
from dcache.engine.region import Region
from dcache.sites.site import Site


@final
class GroupRegion:
    """A site that is lowered as several regions, which follow its decision; it stores no anchors.

    Attributes:
        followers: the regions of its parts, in execution order.
        predicting: the decision of the last call.
        decided_in: the call of that decision.
        history: counts the predictions in a row; it has no anchors.
    """

    def __init__(self, engine: Engine, site: Site) -> None:
        self.engine = engine
        self.site = site
        self.key = site.name
        self.predicting = False
        self.decided_in: Call | None = None
        self.history: History | None = None
        self.followers: list[Region] = []

    def parts(self) -> Iterator[Region]:
        """The followers, which store the anchors."""
        for follower in self.followers:
            yield from follower.parts()

    def release(self) -> None:
        """Drop all tensors at the end of a run."""
        self.history = None
        self.decided_in = None
        for follower in self.followers:
            follower.release()

    @property
    def has_history(self) -> bool:
        """True if every follower has an anchor to predict from."""
        branch = self.engine.call.branch if self.engine.call is not None else None
        return branch is not None and all(branch.history(f.key).taus for f in self.followers)

    def decide(self, call: Call) -> bool:
        """Decide once per call, and count the predictions in a row."""
        if self.decided_in is call:
            return self.predicting
        self.decided_in = call
        self.history = history = call.branch.history(self.key)
        if call.half is None and history.half:
            history.clear()
        history.half = call.half is not None
        self.predicting = self.engine.predicts(self, call)
        if not call.checking:
            history.run_length = history.run_length + 1 if self.predicting else 0
        return self.predicting
