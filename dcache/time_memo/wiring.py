"""What timed modules are called with: arguments of the denoiser, outputs of others, and what lies between."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from dcache.time_memo.arguments import tensors_in
from dcache.time_memo.keys import Moment, numbers_in, version_of
from dcache.time_memo.recent import Recent

# A few for each timestep of a few runs.
_MANY_TENSORS = 512


@dataclass(frozen=True)
class Argument:
    """A tensor that the denoiser was called with, by its name."""

    name: str


@dataclass(frozen=True)
class Output:
    """A tensor that another module returned.

    Attributes:
        node: that module's name.
        leaf: which of the tensors in its output.
    """

    node: str
    leaf: int


@dataclass(frozen=True)
class Derived:
    """A tensor that operations between modules made (a scaled timestep).

    Attributes:
        sources: the denoiser's arguments that it depends on.
    """

    sources: frozenset[str]


@dataclass(frozen=True)
class ObservedCall:
    """One call of a module within the observed one.

    Attributes:
        name: the module's name.
        module: the module.
        inputs: its positional and keyword arguments.
        output: what it returned.
        sources: the denoiser's arguments that each tensor among the inputs depends on.
    """

    name: str
    module: nn.Module
    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    output: Any
    sources: tuple[frozenset[str], ...]


@dataclass(frozen=True)
class Node:
    """How a module's call is made anew.

    Attributes:
        name: the module's name.
        module: the module.
        leaves: its inputs: references in the place of tensors, other values as they are.
        structure: how the leaves form arguments.
    """

    name: str
    module: nn.Module
    leaves: tuple[Any, ...]
    structure: TreeSpec

    def arguments(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments from leaves."""
        return tree_unflatten(list(leaves), self.structure)


def wire(calls: Iterable[ObservedCall], arguments: Mapping[str, torch.Tensor]) -> dict[str, Node]:
    """The nodes of the observed calls of timed modules and of modules without weights, in the order of calls.

    Args:
        calls: the calls, with their tensors.
        arguments: the denoiser's tensors, by name.
    """
    known: dict[int, Argument | Output] = {id(tensor): Argument(name) for name, tensor in arguments.items()}
    nodes: dict[str, Node] = {}
    for call in calls:
        leaves, structure = tree_flatten(call.inputs)
        sources = iter(call.sources)
        wired = [
            _reference(known, leaf, next(sources)) if isinstance(leaf, torch.Tensor) else leaf
            for leaf in leaves
        ]
        nodes[call.name] = Node(call.name, call.module, tuple(wired), structure)
        for i, tensor in enumerate(tensors_in(call.output)):
            known.setdefault(id(tensor), Output(call.name, i))
    return nodes


class DerivedInputs:
    """Tensors between modules, as calls of the denoiser showed them; by what they depend on."""

    def __init__(self) -> None:
        self._tensors: Recent[tuple[str, int, Hashable], tuple[torch.Tensor, int]] = Recent(_MANY_TENSORS)

    def note(
        self, node: Node, inputs: tuple[tuple[Any, ...], dict[str, Any]], moment: Moment, time: str
    ) -> None:
        """Remember what a module was called with, where that returns with other conditions."""
        for i, (reference, leaf) in enumerate(zip(node.leaves, tree_leaves(inputs), strict=False)):
            if not isinstance(reference, Derived) or not isinstance(leaf, torch.Tensor):
                continue
            key = moment.key(reference.sources, time)
            if key is not None and not numbers_in(key):
                self._tensors[node.name, i, key] = leaf, version_of(leaf)

    def find(self, node: Node, leaf: int, sources: frozenset[str], moment: Moment, time: str) -> Any:
        """The tensor, None where it was not seen, or was written to since."""
        key = moment.key(sources, time)
        known = None if key is None else self._tensors.get((node.name, leaf, key))
        return known[0] if known is not None and known[1] == version_of(known[0]) else None


def _reference(
    known: Mapping[int, Argument | Output], tensor: torch.Tensor, sources: frozenset[str]
) -> Argument | Output | Derived:
    return known.get(id(tensor)) or Derived(sources)
