"""A region: one bound site. It decides, remembers and predicts for the intercepts of `engine.lowering`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from operator import itemgetter
from time import perf_counter
from typing import Any, TypeGuard

import torch

from dcache.cache.codec import Codec
from dcache.cache.history import History, Leaves
from dcache.engine.anchors import OutputForm, fit_rows, latest_entry
from dcache.engine.call import Call
from dcache.engine.observe import SiteOutput
from dcache.engine.protocols import Engine, Lowered
from dcache.errors import DcacheError
from dcache.intercept.pytree import unpredictable
from dcache.kernels import launch
from dcache.kernels.packed import Stored
from dcache.kernels.weighted_sum import weighted_sum
from dcache.predictors.guided_pair import Sum, paired_sum
from dcache.sites.site import Site


class Region(ABC):
    """One site that remembers by a codec; a final subclass for each way of making a site skippable.

    Args:
        engine: the session.
        site: the site, or a part of it that follows another's decision.
        codec: what is remembered of each output.
        leader: the region that decides in this one's place, or None.

    Attributes:
        predicting: whether the call under way predicts this site.
        decided_in: the call in which that was settled.
        history: the anchors on the branch of that call.
        dtypes: of the outputs, None for those that are no tensors.
        grouped: whether it lies on a device where many sites' sums are one launch.
        live: for each output whether it is read behind the site; None while that is not known.
        corrector: corrects what is predicted, or None.
        key: names its histories.
    """

    def __init__(self, engine: Engine, site: Site, codec: Codec, leader: Lowered | None = None) -> None:
        self.engine = engine
        self.site = site
        self.codec = codec
        self.leader = leader
        self.predicting = False
        self.decided_in: Call | None = None
        self.history: History | None = None
        self.dtypes: tuple[Any, ...] = ()
        self.grouped = False
        self.opened: Sequence[torch.Tensor | None] = ()
        self.room_in: Call | None = None
        self.live: tuple[bool, ...] | None = None
        self.predictor = engine.method.predictor.at(site.name)
        corrections = engine.method.corrections
        self.corrector = corrections.of(site.name) if corrections is not None and leader is None else None
        self.key = site.name if leader is None else f"{site.name} of {leader.site.name}"

    @abstractmethod
    def parts(self) -> Iterator[Region]:
        """This region, and those of its module's further calls in one evaluation."""

    @property
    def has_history(self) -> bool:
        """Whether there is anything to predict from."""
        return self.history is not None and bool(self.history.taus)

    def release(self) -> None:
        """The run is over: drop its tensors."""
        self.history = None
        self.decided_in = None
        self.opened = ()
        self.room_in = None

    def decide(self, call: Call) -> bool:
        """Decide once per call whether this site is predicted; the first to ask settles it."""
        if self.decided_in is call:
            return self.predicting
        self.decided_in = call
        if self.engine.observers and not call.checking:
            for observer in self.engine.observers:
                observer.on_enter(self._observed_as(), call)
        self.history = history = call.branch.history(self.key)
        if call.half is not None or history.half:
            fit_rows(history, call.half, self.codec, self._keeps_mean())
        leader = self.leader
        self.predicting = self.engine.predicts(self, call) if leader is None else leader.decide(call)
        return self.predicting

    def open(self, call: Call, entries: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Take what `remember` will need of the entries (delta) before the site may write over them.

        Args:
            call: the call under way.
            entries: for each leaf the input it continues, or None.
        """
        slots = self._make_room(call).spare
        return [
            # What is not read behind the site is not stored.
            self.codec.open(x, slots[i] if i < len(slots) else None)
            if self.live is None or self.live[i]
            else None
            for i, x in enumerate(entries)
        ]

    def remember(self, call: Call, opened: Sequence[torch.Tensor | None], leaves: Sequence[Any]) -> None:
        """Store an anchor.

        Args:
            call: the call under way.
            opened: what `open` took of each leaf's entry, None where the leaf has none.
            leaves: the region's outputs; those that are no tensors are not stored.
        """
        began = perf_counter()
        observers = self.engine.observers
        if observers and not self._observe(call, opened, leaves):
            return
        history = self._make_room(call)
        slots = history.spare
        tensors = [
            leaf if isinstance(leaf, torch.Tensor) and (self.live is None or self.live[i]) else None
            for i, leaf in enumerate(leaves)
        ]
        self.dtypes = tuple([leaf.dtype if isinstance(leaf, torch.Tensor) else None for leaf in leaves])
        self.grouped = any(leaf is not None and launch.possible(leaf.device) for leaf in tensors)
        memory = self.engine.memory
        if memory is None or memory.admits(call, history, opened, tensors, self.codec.store):
            stored: list[Stored | None] = []
            for i, leaf in enumerate(tensors):
                slot = slots[i] if i < len(slots) else None
                stored.append(None if leaf is None else self.codec.close(opened[i], leaf, slot))
            history.push(call.index, call.tau, tuple(stored))
        self.engine.state.overhead_seconds += perf_counter() - began
        for observer in observers:
            observer.on_leave(self._observed_as(), call, computed=True)

    def keep_form(self, call: Call, leaves: Sequence[Any], recipe: Any, place: Any = None) -> None:
        """Keep how an output is put together, beside the anchors of its branch.

        Leaves that are no tensors are returned again by predictions. If they changed since the last anchor,
        or cannot be returned again, the call says so.
        """
        history = self.history
        if history is None or self.decided_in is not call:
            history = self.history = call.branch.history(self.key)
        constants = {i: leaf for i, leaf in enumerate(leaves) if not isinstance(leaf, torch.Tensor)}
        before, history.form = history.form, OutputForm(recipe, constants, len(leaves), place)
        decides = history if self.leader is None else self.leader.history
        if decides is not None and any(type(leaf) is int for leaf in constants.values()):
            # A second computed call tells a size from what counts.
            decides.unsure = before is None
        problem = unpredictable(list(constants.values())) if constants and call.observing else ""
        if problem:
            call.problem = call.problem or f"{self.site.name} returns {problem}"
        elif before is not None and before.place != place:
            call.problem = call.problem or self.other_call()
        elif before is not None and (before.count != len(leaves) or before.constants != constants):
            call.problem = call.problem or (
                f"{self.site.name} returns something beside its tensors that changes between evaluations"
            )

    def other_call(self) -> str:
        """The message where another call of the module stands in the place of the remembered one."""
        return (
            f"the module of {self.site.name} is called in another order or size than in earlier evaluations"
        )

    def predict(self, call: Call, entries: Sequence[torch.Tensor | None]) -> list[Any]:
        """The predicted leaves, new tensors of the outputs' dtypes; None for leaves that are not stored.

        Args:
            call: the call under way.
            entries: for each leaf the fresh input it continues (delta), or None.
        """
        history = self.history
        if history is None or not history.leaves:
            raise without_history(self.site)
        predicted: list[Any] | None = None
        if self.grouped and not (call.checking or entries):
            predicted = self.engine.batched.leaves(self, call)
        if predicted is None:
            weights, anchors, summed = self.terms(call, history)
            rest = summed
            if self.corrector is not None and not call.checking:
                summed = self.corrector.corrected_sum(summed, call.index, history.steps[-1])
            predicted = []
            for i, newest in enumerate(anchors[-1]):
                if newest is None or (self.live is not None and not self.live[i]):
                    predicted.append(None)
                    continue
                base = entries[i] if entries else None
                predicted.append(summed(base, list(map(itemgetter(i), anchors)), weights, self.dtypes[i]))
                # Further leaves are not corrected.
                summed = rest
        if not call.checking:
            history.run_length += 1
            history.predicted_at = call.tau
            for observer in self.engine.observers:
                observer.on_leave(self._observed_as(), call, computed=False)
        return predicted

    def terms(self, call: Call, history: History) -> tuple[list[float], Sequence[Leaves], Sum]:
        """Of a prediction now its weights, its anchors (oldest first), and what sums them."""
        if call.checking or len(history.taus) == 1:
            return [1.0], history.leaves[-1:], weighted_sum
        if self.engine.several_sites:
            weights = self.engine.weight_cache.weights(self.predictor, history.taus, history.steps, call.tau)
        else:
            weights = self.predictor.weights(history.taus, history.steps, call.tau)
        anchors = history.leaves
        if history.forecast is not None:
            anchors = [*anchors, history.forecast]
        summed: Sum = weighted_sum
        if call.branch.paired and call.half is None:
            summed = paired_sum(self.predictor, history.taus, history.steps, call.tau) or weighted_sum
        if 0.0 in weights and summed is weighted_sum:
            used = [i for i, w in enumerate(weights) if w != 0.0]
            weights, anchors = [weights[i] for i in used], [anchors[i] for i in used]
        return weights, anchors, summed

    def stores(self, leaf: Stored | None, i: int) -> TypeGuard[Stored]:
        """Whether the i-th leaf of an anchor is there and read."""
        return leaf is not None and (self.live is None or self.live[i])

    def check_corrections(self) -> None:
        """After a computed call: whether the corrections have as many channels as the output."""
        if self.corrector is not None and self.history is not None and self.history.leaves:
            leaf = next((leaf for leaf in self.history.leaves[-1] if leaf is not None), None)
            if leaf is not None:
                self.corrector.check(leaf)

    def _observed_as(self) -> str:
        return self.site.name if self.leader is None else self.leader.site.name

    def _observe(self, call: Call, opened: Sequence[torch.Tensor | None], leaves: Sequence[Any]) -> bool:
        """Show the observers what was computed; returns whether it has to be stored as well."""
        observers, site = self.engine.observers, self._observed_as()
        looking = [observer for observer in observers if observer.sees_outputs]
        if looking and not call.checking:
            # Before storing: that may overwrite `opened`.
            output = self._output(opened, leaves)
            for observer in looking:
                observer.on_compute(site, call, output)
        # What the engine checks itself with is needed always.
        if call.observing or all(observer.stores for observer in observers):
            return True
        for observer in observers:
            observer.on_leave(site, call, computed=True)
        return False

    def _output(self, opened: Sequence[torch.Tensor | None], leaves: Sequence[Any]) -> SiteOutput:
        live = self.live or (True,) * len(leaves)
        places = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and live[i])
        values = [leaves[i] for i in places]
        if not self.codec.is_delta:
            return SiteOutput(values, None, places)
        # `opened` is the negated input; an output that continues no input is remembered as it is.
        negated = [opened[i] if i < len(opened) else None for i in places]
        changes = [
            leaf if entry is None else entry.float() + leaf.float()
            for leaf, entry in zip(values, negated, strict=True)
        ]
        return SiteOutput(values, changes, places)

    def _keeps_mean(self) -> bool:
        # T-GATE freezes the mean of both branches' cross-attention.
        return self.site.kind == "cross_attn" and self.engine.method.uncond_from == "drop"

    def _make_room(self, call: Call) -> History:
        """The history, without the anchor that the one of this call replaces."""
        history = self.history
        if history is None or self.decided_in is not call:
            history = self.history = call.branch.history(self.key)
        if self.room_in is not call:
            self.room_in = call
            if self.predictor.forecasts and history.taus:
                history.forecast = latest_entry(history, self.predictor, self.codec)
            history.make_room(call.tau)
        return history


def without_history(site: Site) -> DcacheError:
    """The error for a prediction that has nothing to stand on; no run should come to it."""
    return DcacheError(
        f"{site.name} was to be predicted and nothing is remembered of it. This is a fault of dcache: please "
        "report it with the method and the pipeline's class. Until then use other sites, or sites='model'."
    )
