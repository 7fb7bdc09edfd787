"""What was found out about a model, as long as it makes the keys and values that it made then."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from dcache.lm_kv.model.noted import few_ids, noted

Value = TypeVar("Value")
# Changes of keys and values by so much of their channel's largest one are rounding, not other weights.
TOLERANCE = 1e-4
HALF = 2e-2


@dataclass(frozen=True, eq=False)
class _Mark:
    """By what weights are told from others.

    Attributes:
        places: where they lie.
        states: keys and values of all layers with full attention.
    """

    places: tuple[int, ...]
    states: list[torch.Tensor]


class Remembered(Generic[Value]):
    """One value for each model, found anew where its weights were changed or moved.

    Weights change in many ways, of which some leave no trace in torch's counters: a state that is loaded, an
    adapter that is trained, merged or taken off, a move to another device or dtype. So keys and values of a
    few tokens are compared. Where weights lie is compared too, for a value may hold some of them.
    """

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[torch.nn.Module, tuple[_Mark, Value]] = (
            weakref.WeakKeyDictionary()
        )

    def of(self, decoder: torch.nn.Module, find: Callable[[], Value]) -> Value:
        """The decoder's value; `find` gives it where it is not known, or of other weights."""
        mark = _mark(decoder)
        entry = self._known.get(decoder)
        if entry is None or not _alike(entry[0], mark):
            self._known[decoder] = entry = (mark, find())
        return entry[1]


def _mark(decoder: torch.nn.Module) -> _Mark:
    cache = noted(decoder, few_ids(decoder))
    states = [one.clone() for i in cache.compressed_layers for one in cache.layers[i].noted]
    return _Mark(tuple(weight.data_ptr() for weight in decoder.parameters()), states)


def _alike(before: _Mark, after: _Mark) -> bool:
    if before.places != after.places or len(before.states) != len(after.states):
        return False
    return all(_near(one, other) for one, other in zip(before.states, after.states, strict=True))


def _near(one: torch.Tensor, other: torch.Tensor) -> bool:
    if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        return False
    # By channel: biases of a few may be hundreds of times larger than what weights make of a token.
    largest = one.abs().amax((0, 2), keepdim=True)
    share = TOLERANCE if one.dtype.itemsize >= 4 else HALF
    near = (one - other).abs() <= share * largest
    return bool((near | (one.isnan() & other.isnan())).all())
