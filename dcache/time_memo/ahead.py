"""Tables for new conditions (another prompt), all timesteps at once, so that weights are fetched once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any

from dcache.time_memo.arguments import tensors_in
from dcache.time_memo.keys import Moment
from dcache.time_memo.recent import Recent
from dcache.time_memo.timed import TimedIntercept
from dcache.time_memo.wiring import Argument, Derived, DerivedInputs, Node, Output

# Conditions, and timesteps of a run.
_MANY = 1024


class Ahead:
    """Computes timed modules for the timesteps of earlier runs, with the conditions of the call under way.

    Each timestep is computed with the model's own shapes, never as one batch: matrix products of other shapes
    may round differently.

    Args:
        nodes: how modules' calls are made anew.
        timed: name -> intercept of the timed modules.
        time_name: the timestep argument's name.

    Attributes:
        times: the timesteps of the last run.
        derived: tensors between modules.
    """

    def __init__(
        self, nodes: Mapping[str, Node], timed: Mapping[str, TimedIntercept], time_name: str
    ) -> None:
        self.nodes, self.timed, self.time_name = nodes, timed, time_name
        self.times: dict[Hashable, None] = {}
        self.derived = DerivedInputs()
        self._prepared: Recent[Hashable, None] = Recent(_MANY)
        self._running: dict[Hashable, None] = Recent(_MANY)

    def note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], moment: Moment) -> None:
        """A timed module is computed in a call."""
        if name in self.nodes:
            self.derived.note(self.nodes[name], (args, kwargs), moment, self.time_name)

    def prepare(self, moment: Moment, arguments: Callable[[], Mapping[str, Any]]) -> None:
        """Fill the tables for a call's conditions, if these are new.

        Args:
            moment: the call.
            arguments: gives the denoiser's tensors by name; called where conditions are new.
        """
        conditions = (moment.plain, tuple(sorted(moment.conditions.items())))
        if conditions not in self._prepared:
            self._prepared[conditions] = None
            # Branches with conditions of their own are called within the first evaluation.
            if len(self._running) > 1:
                self.times, self._running = self._running, Recent(_MANY)
            given = arguments()
            for timed in self.timed.values():
                if timed.part.sources != {self.time_name}:
                    self._fill(timed, moment, given)
        if moment.time is not None:
            self._running[moment.time] = None

    def _fill(self, timed: TimedIntercept, moment: Moment, arguments: Mapping[str, Any]) -> None:
        settled = True
        for time in self.times:
            then = replace(moment, time=time, called=set(), keys={})
            inputs = self._inputs(self.nodes[timed.part.name], then, arguments)
            key = None if inputs is None else timed.key(then, self.time_name, *inputs)
            if inputs is None or key is None:
                return
            if timed.table.find(key) is None:
                checked = time in timed.confirmed
                timed.table.store(key, timed.compute(*inputs), checked)
                settled = settled and checked
        if settled and self.times:
            timed.weights.leave()

    def _inputs(
        self, node: Node, moment: Moment, arguments: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """A module's arguments at a timestep, None where one is not known."""
        leaves = []
        for i, reference in enumerate(node.leaves):
            leaf = reference
            if isinstance(reference, Derived):
                leaf = self.derived.find(node, i, reference.sources, moment, self.time_name)
            elif isinstance(reference, Argument):
                leaf = arguments.get(reference.name)
            elif isinstance(reference, Output):
                leaf = self._output(reference, moment, arguments)
            if leaf is None and reference is not None:
                return None
            leaves.append(leaf)
        return node.arguments(leaves)

    def _output(self, reference: Output, moment: Moment, arguments: Mapping[str, Any]) -> Any:
        """A tensor that another module returns at a timestep, None where it is not known."""
        node = self.nodes[reference.node]
        inputs = self._inputs(node, moment, arguments)
        if inputs is None:
            return None
        timed = self.timed.get(reference.node)
        if timed is None:
            return tensors_in(node.module(*inputs[0], **inputs[1]))[reference.leaf]
        key = timed.key(moment, self.time_name, *inputs)
        entry = None if key is None else timed.table.find(key)
        return None if entry is None else tensors_in(timed.table.output(entry))[reference.leaf]
