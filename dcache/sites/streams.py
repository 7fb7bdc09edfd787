"""The contract of a block: which argument each of its outputs continues. Probed on the first real call.

An output continues the argument of its own shape and dtype. Where several fit, a declaration decides
(`dcache.sites.blocks.STREAMS`), else what the next block of the same class was really given, else the
order of the arguments. The self-check (`dcache.engine.selfcheck`) is what makes a wrong guess harmless.

Between two lists of blocks the model may join the streams into one; in which order is seen there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from operator import itemgetter
from typing import Any

import torch
from torch import nn

from dcache.intercept.pytree import argument_names
from dcache.sites.blocks import STREAMS

Key = int | str


@dataclass
class BlockTrace:
    """What one block's call looked like.

    Attributes:
        keys: argument name -> position or keyword it was passed by, for every tensor argument.
        fits: for each output leaf, the names of the arguments it may continue.
        leaves: number of output leaves.
        recipe: how to rebuild the output container.
        constants: leaves that are no tensors.
    """

    block: nn.Module
    keys: dict[str, Key]
    fits: list[list[str]]
    recipe: Any
    constants: dict[int, Any]


@dataclass
class StreamTracer:
    """Collects what is seen of the blocks during one computed call.

    Attributes:
        joined: the streams in the order in which the model joins them between two blocks, if it does.
    """

    seen: dict[nn.Module, BlockTrace] = field(default_factory=dict)
    votes: dict[tuple[type, int], str] = field(default_factory=dict)
    joined: tuple[str, ...] = ()
    _before: tuple[nn.Module, Sequence[Any]] | None = None

    def watch(
        self,
        block: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        leaves: Sequence[Any],
        recipe: Any,
    ) -> BlockTrace:
        """Note one block's call."""
        named = named_tensors(block, args, kwargs)
        if self._before is not None and type(self._before[0]) is type(block):
            for k, leaf in enumerate(self._before[1]):
                for name, (_, tensor) in named.items():
                    if tensor is leaf:
                        self.votes[type(block), k] = name
        elif self._before is not None:
            self._see_seam(*self._before, [tensor for _, tensor in named.values()])
        self._before = (block, leaves)
        fits = [[n for n, (_, t) in named.items() if _alike(t, leaf)] for leaf in leaves]
        constants = {i: leaf for i, leaf in enumerate(leaves) if not isinstance(leaf, torch.Tensor)}
        seen = BlockTrace(block, {n: key for n, (key, _) in named.items()}, fits, recipe, constants)
        self.seen[block] = seen
        return seen

    def _see_seam(self, block: nn.Module, leaves: Sequence[Any], given: Sequence[torch.Tensor]) -> None:
        # One end is enough: of the other the model may have cut a piece or added something to it.
        parts = {n: leaf for n, leaf in zip(self.sources(block), leaves, strict=True) if n is not None}
        for names in permutations(parts) if len(parts) > 1 else ():
            head, tail = parts[names[0]], parts[names[-1]]
            for whole in given:
                dim = seam([parts[n] for n in names], whole)
                if dim is not None and (
                    torch.equal(whole.narrow(dim, 0, head.shape[dim]), head)
                    or torch.equal(whole.narrow(dim, -tail.shape[dim], tail.shape[dim]), tail)
                ):
                    self.joined = names
                    return

    def rest(self) -> None:
        """The watched call is over: let go of its tensors."""
        self._before = None

    def sources(self, block: nn.Module) -> list[str | None]:
        """For each output leaf of a watched block, the name of the argument it continues."""
        seen = self.seen[block]
        declared = STREAMS.get(type(block).__name__, ())
        chosen: list[str | None] = []
        for k, fits in enumerate(seen.fits):
            free = [name for name in fits if name not in chosen]
            vote = self.votes.get((type(block), k))
            if len(free) > 1 and k < len(declared) and declared[k] in free:
                chosen.append(declared[k])
            elif len(free) > 1 and vote in free:
                chosen.append(vote)
            else:
                chosen.append(free[0] if free else None)
        return chosen

    def entries(
        self, first: nn.Module, name: str | None, leaf: Any, given: Mapping[str, tuple[Key, torch.Tensor]]
    ) -> tuple[tuple[str, ...], int]:
        """What an output that continues `name` continues at the first block of its run.

        Args:
            first: the first block, watched.
            name: as `sources` of the last block tells.
            leaf: the output.
            given: the first block's arguments as they were.

        Returns:
            Arguments of the first block, and the dimension along which they are joined where there is more
            than one; no argument where nothing has the output's shape.
        """
        if name is None:
            return (), 0
        if name in given and given[name][1].shape == leaf.shape:
            return (name,), 0
        streams = self.joined or tuple(n for n in self.sources(first) if n is not None)
        dim = seam([given[n][1] for n in streams], leaf) if all(n in given for n in streams) else None
        return (streams, dim) if dim is not None else ((), 0)

    def passing(self, block: nn.Module) -> PassThrough | None:
        """How this block's inputs become its outputs when it is skipped; None where that cannot be."""
        seen = self.seen[block]
        sources = self.sources(block)
        if any(s is None and k not in seen.constants for k, s in enumerate(sources)):
            return None
        keys = [seen.keys[s] if s is not None else None for s in sources]
        return PassThrough(tuple(keys), seen.constants, seen.recipe)


class PassThrough:
    """A skipped block: its inputs as its outputs."""

    def __init__(self, keys: tuple[Key | None, ...], constants: Mapping[int, Any], recipe: Any) -> None:
        self.keys = keys
        self.constants = dict(constants)
        self.recipe = recipe
        plain = not constants and (recipe is None or (recipe is tuple and len(keys) > 1))
        by_name = all(isinstance(k, str) for k in keys)
        by_place = all(isinstance(k, int) for k in keys)
        self.getter = itemgetter(*keys) if plain and (by_name or by_place) else None
        self.by_name = by_name

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The general way; blocks with a `getter` take the short one."""
        from dcache.intercept.pytree import rebuild

        leaves = [
            self.constants[k] if key is None else args[key] if isinstance(key, int) else kwargs[key]
            for k, key in enumerate(self.keys)
        ]
        return rebuild(leaves, self.recipe)


def named_tensors(
    block: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, tuple[Key, torch.Tensor]]:
    """Every floating tensor argument by parameter name, with how it was passed; in the signature's order."""
    names = argument_names(block.forward)
    found: dict[str, tuple[Key, torch.Tensor]] = {}
    for i, value in enumerate(args):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            found[names[i] if i < len(names) else f"argument {i}"] = (i, value)
    for key in sorted(kwargs, key=lambda k: names.index(k) if k in names else len(names)):
        value = kwargs[key]
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            found[key] = (key, value)
    return found


def seam(parts: Sequence[torch.Tensor], whole: torch.Tensor) -> int | None:
    """The dimension along which tensors of these shapes add up to the whole's, or None."""
    if len(parts) < 2 or any(part.ndim != whole.ndim for part in parts):
        return None
    for dim, size in enumerate(whole.shape):
        rest = [(*part.shape[:dim], *part.shape[dim + 1 :]) for part in (whole, *parts)]
        if len(set(rest)) == 1 and sum(part.shape[dim] for part in parts) == size:
            return dim
    return None


def join(entries: list[torch.Tensor], dim: int) -> torch.Tensor | None:
    """The entries that one exit continues as one tensor; None where it continues none."""
    if len(entries) < 2:
        return entries[0] if entries else None
    return torch.cat(entries, dim)


def _alike(argument: torch.Tensor, leaf: Any) -> bool:
    return (
        isinstance(leaf, torch.Tensor)
        and argument.ndim >= 2
        and argument.shape == leaf.shape
        and argument.dtype == leaf.dtype
    )
