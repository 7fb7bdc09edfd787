"""One denoiser's share in a budget: what it may remember, and how it remembers less."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from dcache.cache.codec import Codec
from dcache.cache.history import History, tensors_of
from dcache.cache.size import bytes_of_like
from dcache.engine.budget import Budget
from dcache.engine.call import Call
from dcache.engine.degrade import DegradeLevel, precisions, shrink_history
from dcache.engine.repeat import FirstCall, Remembering, repeat_call
from dcache.identity.run import Run
from dcache.intercept.pytree import signature
from dcache.util.bytes import bytes_of


class SessionMemory:
    """One session's share of a memory budget.

    Args:
        session: the session.
        budget: the limit.
    """

    def __init__(self, session: Remembering, budget: Budget) -> None:
        self.session = session
        self.budget = budget
        # The first calls of branches in the evaluation under way, in case they have to be computed again.
        self.first_calls: list[FirstCall] = []
        # The calls' signature for which the method was lowered, None while it is as it was asked for.
        self._lowered_for: Hashable = None
        self._may_repeat = self._short_before = False
        budget.join(self)

    @property
    def short(self) -> bool:
        """Whether something could not be remembered since the last `settle`."""
        return self.budget.short

    @property
    def removed(self) -> bool:
        """Whether caching was taken off the denoiser."""
        return self.session.removed

    @property
    def holds(self) -> bool:
        """Whether anything is remembered now."""
        return bool(self.session.state.branches)

    @property
    def run(self) -> Run | None:
        """The run under way."""
        return self.session.state.run

    @property
    def lowest(self) -> DegradeLevel:
        """How far this session can go down."""
        return DegradeLevel(len(self._precisions()) - 1, self.session.method.predictor.order)

    def describe(self, requested: bool = False) -> str:
        """The method as it is now, or as it was asked for."""
        return (self.session.requested if requested else self.session.method).describe()

    def warn(self, text: str) -> None:
        """Warn once per session and text."""
        self.session.warn(text)

    def bytes_now(self) -> int:
        """Bytes held now."""
        return self.session.state.bytes_now()

    def admits(
        self,
        call: Call,
        history: History,
        opened: Sequence[torch.Tensor | None],
        leaves: Sequence[torch.Tensor | None],
        store: torch.dtype | None,
    ) -> bool:
        """Whether an anchor may be stored; noted as held if so. Arguments as in `protocols.Memory`."""
        firsts = [leaf if taken is None else taken for taken, leaf in zip(opened, leaves, strict=True)]
        history.like = tuple([
            None if leaf is None else (leaf.shape, leaf.dtype if first is None else first.dtype)
            for first, leaf in zip(firsts, leaves, strict=True)
        ])  # fmt: skip
        # An anchor of another size than the one it replaces does not fit into its memory.
        more = bytes_of_like(history, store) - bytes_of(tensors_of(history.spare))
        return more <= 0 or self._take(call, more)

    def admits_probe(self, call: Call, x: torch.Tensor) -> bool:
        """Whether a change indicator may keep a tensor like this one; where not, its change is not known."""
        size = x.numel() * x.element_size()
        # After its first call an indicator may keep something of the output too.
        if self._take(call, size if call.branch.settled else 2 * size):
            return True
        call.branch.refused = size
        return False

    def begin(self, index: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A call begins; a run of other shapes than those that were lowered for asks for all again."""
        self._short_before = self.short
        if self.first_calls and self.first_calls[0][0].index != index:
            self.forget()
        lowered_for = self._lowered_for
        if lowered_for is not None and not self.holds and lowered_for != signature(args, kwargs):
            self.restore()

    def forget(self) -> None:
        """Drop the calls that might have been computed once more, and the one that was counted in."""
        self.first_calls = []
        self.budget.forget_call()

    def withdraw(self) -> None:
        """The call under way is forgotten: what it found no room for is no sign of a lack of it."""
        self.budget.short = self._short_before
        self.budget.forget_call()

    def settle(self, call: Call, inner: Callable[..., Any], arguments: Any) -> None:
        """After a computed call: give up what is needed to stay within the budget from now on.

        Args:
            call: the one that just ended.
            inner: the denoiser's own call.
            arguments: (args, kwargs) as they were before the call, None where the branch was called before.

        Raises:
            DcacheError: there is nothing left to give up.
        """
        if call.branch.settled and not self.short:
            return
        again = not call.branch.settled and arguments is not None
        if again:
            self.first_calls.append((call, inner, arguments))
        self._may_repeat = again
        self.budget.settle(self)
        for branch in self.session.state.branches.values():
            branch.settled = True

    def full_bytes(self, level: DegradeLevel) -> int:
        """Bytes of the histories once they are full, and of the change indicators, at a level."""
        session, total = self.session, 0
        predictor = level.predictor(session.method.predictor)
        anchors = predictor.order + 1 + predictor.forecasts
        store = level.store(self._precisions())
        guidance = session.binding.guidance
        for branch in session.state.branches.values():
            for key, history in branch.histories.items():
                if guidance is not None and key == guidance.key:
                    total += bytes_of_like(history, None)
                else:
                    total += anchors * bytes_of_like(history, store)
            if branch.indicator is not None:
                sizes = [t.untyped_storage().nbytes() for t in branch.indicator.capacity()]
                # What it sees now stands beside what it compares with.
                total += max(
                    sum(sizes) + max(sizes, default=0), branch.indicator.max_tensors * branch.refused
                )
        return total

    def degrade(self, level: DegradeLevel) -> None:
        """Go down to a level: the method changes, and with it what is remembered already."""
        session = self.session
        method, store = session.method, level.store(self._precisions())
        predictor = level.predictor(method.predictor)
        regions = list(session.binding.storing())
        codec = replace(regions[0].codec, store=store) if regions else None
        changed = codec is not None and any(region.codec.store != store for region in regions)
        if predictor is method.predictor and not changed:
            return
        self._mark_lowered()
        given_up: dict[str, Any] = {} if predictor is method.predictor else {"order": predictor.order}
        if changed and codec is not None:
            method = replace(method, codec=codec.name)
            given_up = {**given_up, "codec": codec.name}
        session.method = replace(method, predictor=predictor).with_parameters(**given_up)
        for region in regions:
            region.predictor = predictor.at(region.site.name)
            region.codec = replace(region.codec, store=store)
        self._shrink_histories(Codec("value", store) if changed else None)

    def coarsen(self) -> bool:
        """Remember less of the model, at the order and precision asked for; False where that cannot be."""
        session = self.session
        method, binding = session.requested, session.binding
        named = method.fixed or method.corrections is not None or method.predictor.tabulated
        if named or method.probe is not None or method.uncond_from or binding.whole is not None:
            return False
        self._mark_lowered()
        sites = ("model",)
        if len(binding.sites) > 1:
            auto = binding.structure.select(("auto",))
            sites = ("auto",) if auto != binding.sites and len(auto) == 1 else sites
        if sites == ("model",):
            method = method.for_whole_model()
        session.method = replace(method, sites=sites).with_parameters(sites=sites[0])
        # Rows of sites that are bound no more are no part of the run's trace.
        session.state.record.events.clear()
        session.rebind(sites)
        return True

    def restore(self) -> None:
        """Go back to the method that was asked for; nothing is remembered then."""
        self._lowered_for = None
        self.session.free()
        if self.session.method is not self.session.requested:
            self.session.method = self.session.requested
            self.session.rebind(self.session.method.sites)

    def repeat_first_calls(self) -> bool:
        """Compute this evaluation's first calls again, to remember them; False where there are none."""
        if not self._may_repeat:
            return False
        state = self.session.state
        for call, _, _ in self.first_calls:
            state.branches.pop(call.branch.name, None)
            call.branch.start_afresh(call.branch.reset)
        counts = self.first_calls[0][0].counts
        if counts is not None:
            state.record.recount(counts)
        for call, inner, arguments in self.first_calls:
            repeat_call(self.session, call, inner, arguments)
        return True

    def fits(self, fitting: bool) -> bool:
        """Whether something fits in all processes, given whether it fits in this one."""
        module = self.session.module
        if getattr(module, "_parallel_config", None) is None:
            return fitting
        from dcache.intercept.ranks import ranks_of

        ranks = ranks_of(module)
        return fitting if ranks is None else ranks.all_do(fitting)

    def free_if_idle(self, run: Run) -> None:
        """Free everything if the denoiser's turn in that run is over."""
        state = self.session.state
        if state.run is run and state.last_index < run.index:
            self.session.free()

    def _take(self, call: Call, size: int) -> bool:
        taken = self.budget.take(call, size)
        if self.fits(taken):
            return True
        if taken:
            self.budget.give_back(size)
        return False

    def _mark_lowered(self) -> None:
        if self._lowered_for is None:
            self._lowered_for = next(iter(self.session.state.branches.values())).signature

    def _precisions(self) -> list[torch.dtype | None]:
        return precisions(self.session.binding.storing(), self.session.state.branches.values())

    def _shrink_histories(self, codec: Codec | None) -> None:
        predictor, guidance = self.session.method.predictor, self.session.binding.guidance
        for branch in self.session.state.branches.values():
            branch.limit = predictor.order + 1
            for key, history in branch.histories.items():
                if guidance is None or key != guidance.key:
                    shrink_history(history, predictor, codec)
