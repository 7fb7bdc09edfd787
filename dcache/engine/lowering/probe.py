"""The intercepts of a dynamic rule's probe: they always compute, and feed the change indicator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dcache.engine.call import Call
from dcache.engine.protocols import Engine
from dcache.intercept.module_call import ModuleIntercept
from dcache.intercept.pytree import first_tensor, flatten
from dcache.probes import AttentionInputSeenError
from dcache.sites.streams import Key, join, named_tensors


class FrontProbe:
    """The leading blocks whose own change is the dynamic rule's probe (First Block Cache, DBCache)."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.keys: tuple[Key, ...] = ()
        self.dim = 0
        self.leaf = 0
        self.first: nn.Module | None = None
        self.before: torch.Tensor | None = None
        self.clones: dict[str, tuple[Key, torch.Tensor]] = {}

    def enter(self, call: Call, block: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """The first of them is called: keep the main stream, negated; at first every one that may be it."""
        if self.keys and not call.observing:
            entry = join([args[k] if isinstance(k, int) else kwargs[k] for k in self.keys], self.dim)
            self.before = None if entry is None else torch.neg(entry)
            return
        self.first, self.before = block, None
        named = named_tensors(block, args, kwargs)
        self.clones = {name: (key, tensor.clone()) for name, (key, tensor) in named.items()}

    def leave(self, call: Call, block: nn.Module, leaves: Sequence[Any]) -> None:
        """The last of them has run: show the indicator output minus input."""
        if self.before is None:
            clones, self.clones = self.clones, {}
            names, self.dim, self.leaf = self._stream(block, leaves, clones)
            self.keys = tuple(clones[n][0] for n in names)
            entry = join([clones[n][1] for n in names], self.dim)
            if entry is None:
                return
            self.before = torch.neg(entry)
        # A stream of a single row may have been broadcast.
        leaf, before = leaves[self.leaf], self.before
        self.engine.show(call, before.add_(leaf) if before.shape == leaf.shape else before + leaf, own=True)
        self.before = None

    def _stream(
        self, block: nn.Module, leaves: Sequence[Any], given: Mapping[str, tuple[Key, torch.Tensor]]
    ) -> tuple[tuple[str, ...], int, int]:
        """Which arguments of the first block an output of the last one continues.

        Args:
            block: the last one.
            leaves: its outputs.
            given: the first block's arguments as they were.

        Returns:
            The arguments, the dimension along which they are joined, and the place of the output; no argument
            where none is continued.
        """
        tracer, first = self.engine.tracer, self.first
        if first is None:
            return (), 0, 0
        sources = tracer.sources(block)
        main = next((name for name in given if name in sources), None)
        places = range(len(leaves)) if main is None else [sources.index(main)]
        for place in places:
            names, dim = tracer.entries(first, sources[place], leaves[place], given)
            if not names:
                # Another class of blocks may have another name for the same stream.
                shape = getattr(leaves[place], "shape", None)
                names = tuple([name for name, (_, tensor) in given.items() if tensor.shape == shape][:1])
            if names:
                return names, dim, place
        return (), 0, 0


class FrontProbeCall(ModuleIntercept):
    """One of the leading blocks; always computed."""

    name = "probe"

    def __init__(self, module: nn.Module, front: FrontProbe, first: bool, last: bool) -> None:
        super().__init__(module)
        self.front = front
        self.first = first
        self.last = last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute; let the front know where it begins and ends."""
        front = self.front
        call = front.engine.call
        if call is None:
            return self.inner(*args, **kwargs)
        if self.first:
            front.enter(call, self.module, args, kwargs)
        output = self.inner(*args, **kwargs)
        if not (call.observing or self.last):
            return output
        leaves, recipe = flatten(output)
        if front.before is None:
            front.engine.tracer.record(self.module, args, kwargs, leaves, recipe)
        if self.last:
            front.leave(call, self.module, leaves)
        return output


class AttentionInputProbe(ModuleIntercept):
    """The first block's attention: what it is given is the dynamic rule's probe (TeaCache).

    Where it is called for several streams, the probe is its call of the shape of the block's first argument;
    else its first call.

    Attributes:
        place: which of its calls in one evaluation that is, from 0.
        matched: whether that call's input has the shape of the block's first argument.
    """

    name = "probe"

    def __init__(self, module: nn.Module, engine: Engine) -> None:
        super().__init__(module)
        self.engine = engine
        self.place, self.matched = 0, False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Show the indicator the input; a run for the probe alone ends here."""
        call = self.engine.call
        if call is None:
            return self.inner(*args, **kwargs)
        probing, (counted, before) = call.probing_attention, call.attention_calls
        place = before + 1 if counted is probing else 0
        call.attention_calls = (probing, place)
        seen = first_tensor(args, kwargs)
        if call.observing and place == 0:
            self.place, self.matched = 0, False
        if call.observing and not self.matched and seen is not None and seen.shape == call.block_input:
            self.place, self.matched = place, True
            if place and call.branch.indicator is not None:
                # What was shown is another stream's.
                call.branch.indicator.now = None
        if place == self.place:
            if seen is not None:
                self.engine.show(call, seen)
            if probing:
                raise AttentionInputSeenError
        return self.inner(*args, **kwargs)


class BlockInputProbe(ModuleIntercept):
    """The first block: what it is given is the dynamic rule's probe where its attention is not found."""

    name = "probe"

    def __init__(self, module: nn.Module, engine: Engine) -> None:
        super().__init__(module)
        self.engine = engine

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Show the indicator the input, before the run that begins here is decided."""
        call = self.engine.call
        if call is not None:
            seen = first_tensor(args, kwargs)
            if seen is not None:
                self.engine.show(call, seen)
        return self.inner(*args, **kwargs)
