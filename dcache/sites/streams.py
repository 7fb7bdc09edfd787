"""Streams: which argument each output of a block continues, inferred on the first computed call.

An output continues an argument of the same shape and dtype, or one of a single row that the block broadcasts
(prompt embeddings that were not repeated for each picture). If several fit, a declaration decides
(`dcache.sites.blocks.STREAMS`); else the argument under which the next block of the same class received that
output; else the order of the arguments. A wrong guess is harmless: the self-check (`dcache.engine.selfcheck`)
compares a predicted call with the computed one and falls back to the whole model.

Between two lists of blocks the model may concatenate the streams. The dimension and order are inferred from
the tensors that the next block receives.
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
from dcache.sites.blocks import STREAMS, key_of

Key = int | str


@dataclass
class BlockTrace:
    """The form of one block's call.

    Attributes:
        block: the block.
        keys: argument name -> position or keyword by which it was passed, for every tensor argument.
        fits: for each output, the names of the arguments that it may continue.
        recipe: how to rebuild the output container from its flat outputs.
        constants: place -> output, for outputs that are not tensors.
        single: names of the arguments of one row.
        rows: for each output, an argument that has as many rows, None where there is none.
    """

    block: nn.Module
    keys: dict[str, Key]
    fits: list[list[str]]
    recipe: Any
    constants: dict[int, Any]
    single: frozenset[str] = frozenset()
    rows: tuple[str | None, ...] = ()


@dataclass
class StreamTracer:
    """Collects the traces of the blocks during one computed call.

    Attributes:
        seen: block -> trace of its call.
        votes: (block class, output's place) -> argument under which the next block received that output.
        joined: names of the streams in the order in which the model concatenates them, () if it does not.
        broadcast: (block, output's place) -> argument with the rows of an output whose stream the block
            broadcasts. Calls of another signature may not broadcast it, which this does not change.
    """

    seen: dict[nn.Module, BlockTrace] = field(default_factory=dict)
    votes: dict[tuple[type, int], str] = field(default_factory=dict)
    joined: tuple[str, ...] = ()
    broadcast: dict[tuple[nn.Module, int], Key] = field(default_factory=dict)
    _previous: tuple[nn.Module, Sequence[Any]] | None = None

    def record(
        self,
        block: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        leaves: Sequence[Any],
        recipe: Any,
    ) -> BlockTrace:
        """Record one block's call.

        Args:
            block: the block.
            args: positional arguments of the call.
            kwargs: keyword arguments of the call.
            leaves: the outputs, flat.
            recipe: how to rebuild the output container.
        """
        named = named_tensors(block, args, kwargs)
        if self._previous is not None and type(self._previous[0]) is type(block):
            # The same tensor object, passed on to a block of the same class, shows which argument it
            # continues.
            for k, leaf in enumerate(self._previous[1]):
                for name, (_, tensor) in named.items():
                    if tensor is leaf:
                        self.votes[type(block), k] = name
        elif self._previous is not None:
            self._detect_join(*self._previous, [tensor for _, tensor in named.values()])
        self._previous = (block, leaves)
        fits = [_fitting(named, leaf) for leaf in leaves]
        constants = {i: leaf for i, leaf in enumerate(leaves) if not isinstance(leaf, torch.Tensor)}
        trace = BlockTrace(
            block,
            {n: key for n, (key, _) in named.items()},
            fits,
            recipe,
            constants,
            frozenset(n for n, (_, t) in named.items() if t.shape[:1] == (1,)),
            tuple([_with_rows(named, leaf) for leaf in leaves]),
        )
        self.seen[block] = trace
        return trace

    def _detect_join(self, block: nn.Module, leaves: Sequence[Any], given: Sequence[torch.Tensor]) -> None:
        """Note in which order the model concatenates this block's outputs for the next block, if it does."""
        # Only the first or the last stream has to be unchanged: the model may have cut or changed the other.
        parts = {n: leaf for n, leaf in zip(self.sources(block), leaves, strict=True) if n is not None}
        for names in permutations(parts) if len(parts) > 1 else ():
            head, tail = parts[names[0]], parts[names[-1]]
            for whole in given:
                dim = joined_dim([parts[n] for n in names], whole)
                if dim is not None and (
                    torch.equal(whole.narrow(dim, 0, head.shape[dim]), head)
                    or torch.equal(whole.narrow(dim, -tail.shape[dim], tail.shape[dim]), tail)
                ):
                    self.joined = names
                    return

    def end_call(self) -> None:
        """End the recorded call: drop its tensors."""
        self._previous = None

    def sources(self, block: nn.Module) -> list[str | None]:
        """For each output of a recorded block, the name of the argument that it continues, or None."""
        declared = STREAMS.get(key_of(type(block)), ())
        chosen: list[str | None] = []
        for k, fits in enumerate(self.seen[block].fits):
            # An argument is continued by one output only.
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
        """The arguments of a run's first block that an output of its last block continues.

        Args:
            first: the first block, recorded.
            name: the argument of the last block that the output continues, as in `sources`.
            leaf: the output.
            given: the first block's tensor arguments: name -> (position or keyword, tensor).

        Returns:
            Names of arguments of the first block, and the dimension along which they are concatenated if
            there are several. No names if nothing has the output's shape.
        """
        if name is None:
            return (), 0
        if name in given and with_rows_of(given[name][1], leaf).shape == leaf.shape:
            return (name,), 0
        streams = self.joined or tuple(n for n in self.sources(first) if n is not None)
        parts = [with_rows_of(given[n][1], leaf) for n in streams if n in given]
        dim = joined_dim(parts, leaf) if len(parts) == len(streams) else None
        return (streams, dim) if dim is not None else ((), 0)

    def pass_through(self, block: nn.Module) -> PassThrough | None:
        """A function that returns a block's inputs as its outputs; None if an output continues no input."""
        trace = self.seen[block]
        sources = self.sources(block)
        if any(s is None and k not in trace.constants for k, s in enumerate(sources)):
            return None
        keys = [trace.keys[s] if s is not None else None for s in sources]
        for k, source in enumerate(sources):
            like = trace.rows[k] if k < len(trace.rows) else None
            if source in trace.single and like is not None and like not in trace.single:
                self.broadcast[block, k] = trace.keys[like]
        rows = tuple([self.broadcast.get((block, k)) for k in range(len(keys))])
        return PassThrough(tuple(keys), trace.constants, trace.recipe, rows)


class PassThrough:
    """Stands in for a skipped block: returns its inputs as its outputs.

    Args:
        keys: for each output, position or keyword of the argument that it continues; None for a constant.
        constants: place -> output, for outputs that are not tensors.
        recipe: how to rebuild the output container.
        rows: for each output whose stream the block broadcasts, the argument that has its rows.

    Attributes:
        getter: the same as one `itemgetter` on args or kwargs, None where that is not enough. Skipped blocks
            call it directly, which is faster.
        by_name: True if `getter` reads kwargs.
    """

    def __init__(
        self,
        keys: tuple[Key | None, ...],
        constants: Mapping[int, Any],
        recipe: Any,
        rows: tuple[Key | None, ...] = (),
    ) -> None:
        self.keys = keys
        self.rows = {k: key for k, key in enumerate(rows) if key is not None}
        self.constants = dict(constants)
        self.recipe = recipe
        plain = not (constants or self.rows) and (recipe is None or (recipe is tuple and len(keys) > 1))
        by_name = all(isinstance(k, str) for k in keys)
        by_place = all(isinstance(k, int) for k in keys)
        self.getter = itemgetter(*keys) if plain and (by_name or by_place) else None
        self.by_name = by_name

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The block's outputs, given the arguments of its call."""
        from dcache.intercept.pytree import rebuild

        leaves = [
            self.constants[k] if key is None else args[key] if isinstance(key, int) else kwargs[key]
            for k, key in enumerate(self.keys)
        ]
        for k, key in self.rows.items():
            leaves[k] = with_rows_of(leaves[k], args[key] if isinstance(key, int) else kwargs[key])
        return rebuild(leaves, self.recipe)


def named_tensors(
    block: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, tuple[Key, torch.Tensor]]:
    """Parameter name -> (position or keyword, tensor) of every floating-point tensor, in signature order."""
    names = argument_names(block.forward)
    tensors: dict[str, tuple[Key, torch.Tensor]] = {}
    for i, value in enumerate(args):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            tensors[names[i] if i < len(names) else f"argument {i}"] = (i, value)
    for key in sorted(kwargs, key=lambda k: names.index(k) if k in names else len(names)):
        value = kwargs[key]
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            tensors[key] = (key, value)
    return tensors


def joined_dim(parts: Sequence[torch.Tensor], whole: torch.Tensor) -> int | None:
    """The dimension along which tensors of these shapes concatenate to the shape of `whole`, or None."""
    if len(parts) < 2 or any(part.ndim != whole.ndim for part in parts):
        return None
    for dim, size in enumerate(whole.shape):
        rest = [(*part.shape[:dim], *part.shape[dim + 1 :]) for part in (whole, *parts)]
        if len(set(rest)) == 1 and sum(part.shape[dim] for part in parts) == size:
            return dim
    return None


def join(entries: list[torch.Tensor], dim: int) -> torch.Tensor | None:
    """Concatenate the inputs that one output continues, a single row broadcast; None if there are none."""
    if len(entries) < 2:
        return entries[0] if entries else None
    rows = [entry.shape[0] for entry in entries]
    if dim and min(rows) < max(rows):
        most = entries[rows.index(max(rows))]
        entries = [with_rows_of(entry, most) for entry in entries]
    return torch.cat(entries, dim)


def with_rows_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A tensor of a single row as one of as many rows as another has, in the same memory."""
    if tensor.shape[:1] != (1,) or like.shape[:1] == (1,):
        return tensor
    return tensor.expand(like.shape[0], *tensor.shape[1:])


def _fitting(named: Mapping[str, tuple[Key, torch.Tensor]], leaf: Any) -> list[str]:
    """Names of the arguments that an output may continue: those of its shape, then those of a single row."""
    if not isinstance(leaf, torch.Tensor):
        return []
    alike = {name: t for name, (_, t) in named.items() if t.ndim >= 2 and t.dtype == leaf.dtype}
    same = [name for name, t in alike.items() if t.shape == leaf.shape]
    return same + [
        name
        for name, t in alike.items()
        if name not in same and with_rows_of(t, leaf).shape == leaf.shape and _with_rows(named, leaf)
    ]


def _with_rows(named: Mapping[str, tuple[Key, torch.Tensor]], leaf: Any) -> str | None:
    """An argument that has the rows of an output, one of as many dimensions if there is any; or None."""
    if not isinstance(leaf, torch.Tensor):
        return None
    rows = {name: t for name, (_, t) in named.items() if t.shape[:1] == leaf.shape[:1]}
    return next((name for name, t in rows.items() if t.ndim == leaf.ndim), next(iter(rows), None))
