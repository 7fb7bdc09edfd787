"""Lowering of a run of blocks: all pass their inputs through, the last one returns the prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, final

import torch
from torch import nn

from dcache.cache.codec import Codec
from dcache.engine.anchors import OutputForm
from dcache.engine.call import Call
from dcache.engine.protocols import Engine, Lowered
from dcache.engine.region import Region
from dcache.errors import DcacheError
from dcache.intercept.module_call import ModuleIntercept
from dcache.intercept.pytree import first_tensor, flatten, rebuild, unpredictable
from dcache.sites.regroup import regroup, regrouped_size
from dcache.sites.site import Site
from dcache.sites.streams import Key, PassThrough, join, named_tensors, with_rows_of


@final
class RunRegion(Region):
    """A run of blocks. Which entry each exit continues is known once the blocks were seen.

    An exit continues one entry, or several joined along `dim` where the run crosses a seam, or one in another
    grouping (`sizes`), or none.
    """

    def __init__(self, engine: Engine, site: Site, codec: Codec, leader: Lowered | None = None) -> None:
        super().__init__(engine, site, codec, leader)
        self.sources: list[tuple[str, ...]] | None = None
        self.entry_keys: list[Key | None] = []
        self.joined_keys: dict[int, tuple[Key, ...]] = {}
        self.sizes: dict[int, int] = {}
        self.dim = 0
        self.broadcasts = False
        self.entries: Sequence[torch.Tensor | None] = ()
        self.clones: dict[str, tuple[int | str, torch.Tensor]] = {}
        self.order: list[nn.Module] = []

    def parts(self) -> Iterator[Region]:
        """This region alone."""
        yield self

    def enter(self, call: Call, block: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """The first block was called."""
        predicting = self.decide(call)
        self.opened = ()
        if not self.codec.is_delta:
            return
        if not predicting and (call.observing or self.sources is None):
            named = named_tensors(block, args, kwargs)
            self.clones = {name: (key, tensor.clone()) for name, (key, tensor) in named.items()}
            return
        picked: list[Any] = [
            None if k is None else args[k] if isinstance(k, int) else kwargs[k] for k in self.entry_keys
        ]
        for i, keys in self.joined_keys.items():
            picked[i] = join([args[k] if isinstance(k, int) else kwargs[k] for k in keys], self.dim)
        for i, size in self.sizes.items():
            picked[i] = regroup(picked[i], size)
        if predicting:
            self.entries = picked
        else:
            self.opened = self.open(call, picked)

    def leave(self, call: Call, output: Any) -> None:
        """The last block has run."""
        leaves, recipe = flatten(output)
        self.keep_form(call, leaves, recipe)
        if call.observing or self.sources is None:
            self.settle(leaves)
            entries = [join([self.clones[n][1] for n in names], self.dim) for names in self.sources or ()]
            for i, size in self.sizes.items():
                entries[i] = regroup(self.clones[(self.sources or [])[i][0]][1], size)
            opened: Sequence[torch.Tensor | None] = self.open(call, entries)
            self.clones = {}
        else:
            opened = self.opened or [None] * len(leaves)
        if self.broadcasts:
            opened = [_widened(taken, leaf) for taken, leaf in zip(opened, leaves, strict=True)]
        self.remember(call, opened, leaves)
        self.opened = ()

    def leave_predicted(self, call: Call) -> Any:
        """The last block is replaced by the prediction."""
        # An observer may disable caching meanwhile.
        history = self.history
        if self.broadcasts and history is not None:
            newest = history.leaves[-1]
            self.entries = [_widened(x, z) for x, z in zip_longest(self.entries, newest)]
        leaves = self.predict(call, self.entries)
        self.entries = ()
        form: OutputForm = history.form  # type: ignore[union-attr]
        for i, constant in form.constants.items():
            leaves[i] = constant
        return rebuild(leaves, form.recipe)

    def settle(self, leaves: Sequence[Any]) -> None:
        """Match the last block's outputs with the first block's arguments."""
        last = self.order[-1]
        prober = self.engine.tracer
        first = prober.seen[self.order[0]].keys
        # Only a change needs an entry.
        names = prober.sources(last) if self.codec.is_delta else [None] * len(leaves)
        pairs = list(zip(names, leaves, strict=True))
        entries = [prober.entries(self.order[0], name, leaf, self.clones) for name, leaf in pairs]
        self.sources = [names for names, _ in entries]
        self.sizes = {}
        for i, (name, leaf) in enumerate(pairs):
            if name in self.clones and not self.sources[i]:
                size = regrouped_size(self.clones[name][1].shape, leaf.shape)
                if size is not None:
                    self.sources[i], self.sizes[i] = (name,), size
        self.dim = max((dim for _, dim in entries), default=0)
        keys = [tuple(first[n] for n in names) for names in self.sources]
        self.entry_keys = [k[0] if len(k) == 1 else None for k in keys]
        self.joined_keys = {i: k for i, k in enumerate(keys) if len(k) > 1}
        # Once a call of some signature was broadcast: calls of others may follow it.
        self.broadcasts = self.broadcasts or any(
            len(names) == 1 and self.clones[names[0]][1].shape != leaf.shape
            for names, leaf in zip(self.sources, leaves, strict=True)
        )


def _widened(entry: torch.Tensor | None, like: Any) -> torch.Tensor | None:
    """An entry of a single row with the rows of its output or of an anchor, in memory of its own."""
    if entry is None or like is None or entry.shape == like.shape:
        return entry
    return with_rows_of(entry, like).contiguous()


class BlockCall(ModuleIntercept):
    """One block of the list."""

    name = "site"

    def __init__(self, module: nn.Module, region: RunRegion, first: bool, last: bool) -> None:
        super().__init__(module)
        self.region = region
        self.first = first
        self.last = last
        self.passing: PassThrough | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Pass through, return the prediction, or compute."""
        region = self.region
        call = region.engine.call
        if call is None:
            return self.inner(*args, **kwargs)
        if self.first:
            if region.engine.method.probes_attention:
                call.probe_attention = partial(self.inner, *args, **kwargs)
                picture = first_tensor(args, kwargs)
                call.block_input = None if picture is None else picture.shape
            region.enter(call, self.module, args, kwargs)
            call.probe_attention = None
            call.entered += 1
        if region.predicting and region.decided_in is call:
            if self.last:
                call.entered -= 1
                return region.leave_predicted(call)
            passing = self.passing
            if passing is None:
                raise DcacheError(
                    f"{region.site.name} was to be predicted, and its block {type(self.module).__name__} was "
                    "not called when it was computed (skip-layer guidance?): choose a run of blocks that are "
                    "all called, or sites='model'"
                )
            if passing.getter is not None:
                return passing.getter(kwargs if passing.by_name else args)
            return passing(args, kwargs)
        output = self.inner(*args, **kwargs)
        if call.observing:
            region.order.append(self.module)
            leaves, recipe = flatten(output)
            problem = unpredictable(leaves)
            if problem:
                call.problem = f"{region.site.name}: {type(self.module).__name__} returns {problem}"
            region.engine.tracer.record(self.module, args, kwargs, leaves, recipe)
        if self.last:
            call.entered -= 1
            region.leave(call, output)
        return output
