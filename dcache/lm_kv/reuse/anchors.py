"""How chunks changed at their places of earlier texts, and what that says of a new one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from dcache.lm_kv.model.states import States

# Anchors that together have so much of the likeness count as used.
USED = 0.9
# ("keys" or "values", layer) -> weights that broadcast with `[anchors, 1, h, n, d]`.
Weights: TypeAlias = Callable[[str, int], torch.Tensor]


@dataclass(eq=False)
class Anchor:
    """One chunk at a place of a text.

    Attributes:
        name: a digest of its ids.
        base: its states by itself.
        change: what its states in the text had more, with keys turned back to the chunk's own begin.
        uses: how often it was used.
    """

    name: str
    base: States
    change: States
    uses: int = 0

    def __len__(self) -> int:
        return next(iter(self.base.keys.values())).shape[2]


def alike(states: States, length: int, anchors: Sequence[Anchor], threshold: float) -> bool:
    """Whether few of at least two anchors are much like a chunk; these are counted as used then.

    With d the distances of values over all layers and s = softmax(-d): -sum s log2 s is at most `threshold`
    times log2 of their number.

    Args:
        states: the chunk's, by itself.
        length: its tokens; anchors have at least as many.
        anchors: of the same place.
        threshold: share of the largest entropy.
    """
    if len(anchors) < 2:
        return False
    squares = [
        torch.stack([
            (own - anchor.base.values[layer][:, :, :length]).float().square().sum()
            for layer, own in states.values.items()
        ]).sum()
        for anchor in anchors
    ]  # fmt: skip
    likeness = torch.stack(squares).sqrt().neg().softmax(0)
    entropy = -float((likeness * (likeness + 1e-40).log2()).sum())
    if entropy > threshold * math.log2(len(anchors)):
        return False
    most_first, order = likeness.sort(descending=True, stable=True)
    within = int((most_first.cumsum(0) < USED).sum())
    for index in order[: within or len(anchors)].tolist():
        anchors[index].uses += 1
    return True


def by_token(states: States, length: int, anchors: Sequence[Anchor]) -> Weights:
    """Weights of anchors for a chunk's own changes: of each token, softmax of minus the mean difference."""

    def of(side: str) -> torch.Tensor:
        differences = [
            torch.stack([
                (own - getattr(anchor.base, side)[layer][:, :, :length]).float().abs().mean((1, 3))
                for layer, own in getattr(states, side).items()
            ]).mean(0)
            for anchor in anchors
        ]  # fmt: skip
        return torch.stack(differences).neg().softmax(0)[:, :, None, :, None]

    both = {side: of(side) for side in ("keys", "values")}
    return lambda side, _: both[side]


def by_channel(states: States, length: int, anchors: Sequence[Anchor]) -> Weights:
    """Weights for the changes of fixed text behind a chunk: of each channel, by distances over its tokens."""

    def of(side: str, layer: int) -> torch.Tensor:
        own = getattr(states, side)[layer]
        distances = [
            (own - getattr(anchor.base, side)[layer][:, :, :length]).float().norm(dim=2) for anchor in anchors
        ]
        return torch.stack(distances).neg().softmax(0)[:, :, :, None]

    return of


def changed(states: States, length: int, anchors: Sequence[Anchor], weights: Weights) -> States:
    """A chunk's states with the weighted sums of the anchors' changes."""
    result = States()
    for side in ("keys", "values"):
        for layer, own in getattr(states, side).items():
            changes = torch.stack([getattr(anchor.change, side)[layer][:, :, :length] for anchor in anchors])
            getattr(result, side)[layer] = own + (weights(side, layer) * changes).sum(0).to(own.dtype)
    return result
