"""Decide whether a site is predicted, count the decision, and feed the change indicator."""

from __future__ import annotations

from contextlib import suppress

import torch

from dcache.cache.history import ChangeIndicator, History
from dcache.engine.call import Call
from dcache.engine.protocols import Engine, Lowered
from dcache.probes import AttentionInputSeenError, SinceCompute
from dcache.schedulers import StepContext

# Reasons of guards: they compute whatever is remembered.
_GUARDS = ("warmup", "last", "length", "listed", "schedule", "observing")


class Decisions:
    """Asks the method's rule on behalf of one session.

    Attributes:
        foreseen: keys of the sites whose rule let them be predicted already in this call (`batched_sums`).
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.foreseen: set[str] = set()

    def predicts(self, region: Lowered, call: Call) -> bool:
        """Decide for one site, and count the decision."""
        if call.checking:
            return True
        reason = None if region.key in self.foreseen else self._reason(region, call)
        self.engine.state.record.event(call.branch.name, region.site.name, call.index, reason)
        if reason is None:
            call.predicted += 1
            return True
        call.computed += 1
        return False

    def foresees(self, region: Lowered, call: Call, history: History) -> bool:
        """Whether a site that was not reached yet in this call will be predicted; nothing is counted.

        False where the rule may look at a probe: it is asked at the site's turn only.
        """
        method = self.engine.method
        if method.probe is not None or self.engine.state.full or history.unsure:
            return False
        shared = self.engine.state.shared.get(region.site.name)
        if shared is not None and shared[0] == call.index:
            return shared[1] is None
        memory = dict(history.memory)
        predicted = method.rule(self._context(region, call, history, memory)) is None
        # What a rule notes, for itself or for other branches, it notes at the site's turn.
        if predicted and memory == history.memory and method.branches == "separate":
            self.foreseen.add(region.key)
        return predicted

    def show(self, call: Call, x: torch.Tensor, own: bool = False) -> None:
        """Show the branch's change indicator what the probe sees, once an evaluation.

        Args:
            call: the call under way.
            x: the probe's tensor.
            own: whether it may be kept as it is; else it is copied.
        """
        indicator = call.branch.indicator
        if indicator is None or indicator.now is not None or call.checking:
            return
        memory = self.engine.memory
        if memory is None or memory.admits_probe(call, x):
            run = self.engine.state.run
            indicator.update(x if own else x.clone(), run.logsnr() if run is not None else None)

    def _reason(self, region: Lowered, call: Call) -> str | None:
        engine, history, known = self.engine, region.history, region.has_history
        if engine.state.full:
            return "asked"
        if history is not None and history.unsure:
            return "number"
        method, site = engine.method, region.site.name
        shared = engine.state.shared.get(site)
        if shared is not None and shared[0] == call.index:
            reason = shared[1]
        else:
            context = self._context(region, call, history, {} if history is None else history.memory)
            reason = method.rule(context) if known or not method.probe else None
            if method.branches == "together":
                engine.state.shared[site] = (call.index, reason)
        if reason == "nan":
            engine.warn(
                "the change indicator is not a number: the denoiser produced NaN; the evaluation is computed"
            )
        if reason == "length":
            engine.warn(
                f"{method.describe()} depends on the number of evaluations of the run, which is not known: "
                "all are computed, and later runs with the same timesteps are taken to have as many. To "
                "cache this run too, call dcache.step(module, index=..., steps=...) before each evaluation."
            )
        if not known and reason not in _GUARDS:
            return call.branch.reset or "no_history"
        return reason

    def _context(
        self, region: Lowered, call: Call, history: History | None, memory: dict[str, float]
    ) -> StepContext:
        run = self.engine.state.run
        count = None if run is None else run.count
        if count is None and run is not None and run.expected is not None and call.index < run.expected:
            # As long as an earlier run; one that goes on behind its end is longer than was expected.
            count = run.expected
        return StepContext(
            call.index,
            count,
            history.run_length if history is not None else 0,
            region.site,
            call.branch.name,
            self.engine.depth,
            self._change,
            _unknown if run is None else run.time,
            memory,
            self.engine.state.offset,
        )

    def _change(self) -> float:
        call = self.engine.call
        indicator = call.branch.indicator if call is not None else None
        if call is None or indicator is None:
            return float("inf")
        if indicator.now is None and call.probe_attention is not None:
            # The first block has not run yet: run it as far as its attention.
            with suppress(AttentionInputSeenError):
                call.probing_attention = True
                call.probe_attention()
            call.probing_attention = False
        if getattr(self.engine.module, "_parallel_config", None) is None:
            return indicator.change()
        return self._change_of_all(indicator)

    def _change_of_all(self, indicator: ChangeIndicator) -> float:
        """The change where several processes have parts of the tokens (diffusers' context parallelism)."""
        from dcache.intercept.ranks import ranks_of

        ranks = ranks_of(self.engine.module)
        if ranks is None:
            return indicator.change()
        # All processes have to decide alike: each would wait for the others inside the blocks.
        if isinstance(indicator, SinceCompute) and self._has_part(indicator):
            indicator.total = ranks.total
            return indicator.change()
        return ranks.agreed(indicator.change())

    def _has_part(self, indicator: SinceCompute) -> bool:
        """Whether the indicator's tensor is a part of the tokens, and its change a ratio of sums."""
        probe = self.engine.method.probe
        inside = probe is not None and probe.where in {"front", "modulated"}
        return inside and type(indicator).change is SinceCompute.change


def _unknown() -> None:
    """The timestep where there is no run."""
