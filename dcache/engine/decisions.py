"""Decisions: whether a site is predicted now, counted; and what a dynamic rule is shown before it says so."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from dcache.probes import PeekedError
from dcache.schedulers import Moment

if TYPE_CHECKING:
    from dcache.cache.history import History
    from dcache.engine.call import Call
    from dcache.engine.region import Region
    from dcache.engine.session import Session

_GUARDS = ("warmup", "last", "listed", "schedule")


class Decisions:
    """Asks the method's rule on behalf of one session.

    Attributes:
        together: site -> (evaluation, reason) of the branch that decides for all, where branches decide so.
        foreseen: regions whose rule let them be predicted already in this call (`batched_sums`).
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.together: dict[str, tuple[int, str | None]] = {}
        self.foreseen: set[Region] = set()

    def predicts(self, region: Region, call: Call) -> bool:
        """Decide for one region, and count the decision."""
        if call.checking:
            return True
        reason = None if region in self.foreseen else self._reason(region, call)
        site = region.site.name
        self.session.record.event(call.branch.name, site, call.index, reason)
        if reason is None:
            call.predicted += 1
            return True
        call.computed += 1
        return False

    def foresees(self, region: Region, call: Call, history: History) -> bool:
        """Whether a region that did not ask yet in this call will be predicted; nothing is counted or noted.

        False where the rule may look at a probe: it is asked at the region's turn only.
        """
        method = self.session.method
        if method.probe is not None:
            return False
        shared = self.together.get(region.site.name)
        if shared is not None and shared[0] == call.index:
            return shared[1] is None
        memory = dict(history.memory)
        predicted = method.rule(self._moment(region, call, history, memory)) is None
        # What a rule notes, for itself or for other branches, it notes at the region's turn.
        if predicted and memory == history.memory and method.branches == "separate":
            self.foreseen.add(region)
        return predicted

    def _reason(self, region: Region, call: Call) -> str | None:
        session, history, known = self.session, region.history, region.has_history
        method, site = session.method, region.site.name
        shared = self.together.get(site)
        if shared is not None and shared[0] == call.index:
            reason = shared[1]
        else:
            moment = self._moment(region, call, history, {} if history is None else history.memory)
            reason = method.rule(moment) if known or not method.probe else None
            if method.branches == "together":
                self.together[site] = (call.index, reason)
        if reason == "nan":
            session.warn(
                "the change indicator is not a number: the denoiser produced NaN; the evaluation is computed"
            )
        if not known and reason not in _GUARDS:
            return call.branch.reset or "no_history"
        return reason

    def _moment(
        self, region: Region, call: Call, history: History | None, memory: dict[str, float]
    ) -> Moment:
        run = self.session.run
        return Moment(
            call.index,
            None if run is None else run.count,
            history.run_length if history is not None else 0,
            region.site,
            call.branch.name,
            len(self.session.binding.structure.blocks),
            self._change,
            _unknown if run is None else run.time,
            memory,
        )

    def show(self, call: Call, x: torch.Tensor, own: bool = False) -> None:
        """Show the branch's gauge what the probe sees, once an evaluation; a tensor not `own` is copied."""
        gauge = call.branch.gauge
        if gauge is not None and gauge.now is None and not call.checking:
            run, budget = self.session.run, self.session.budget
            if budget is not None and not budget.admits_probe(call, x):
                return
            gauge.see(x if own else x.clone(), run.logsnr() if run is not None else None)

    def _change(self) -> float:
        call = self.session.call
        gauge = call.branch.gauge if call is not None else None
        if call is None or gauge is None:
            return float("inf")
        if gauge.now is None and call.peek is not None:
            with suppress(PeekedError):
                call.peeking = True
                call.peek()
            call.peeking = False
        return gauge.change()


def _unknown() -> None:
    """The timestep where there is no run."""
