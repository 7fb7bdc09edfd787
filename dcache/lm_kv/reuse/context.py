"""What a chunk attended to where it was computed: the text before it, and itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from dcache.lm_kv.model.partial import Watched


def name_of(ids: torch.Tensor) -> str:
    """A digest of ids, the same for the same text."""
    return hashlib.sha256(ids.long().cpu().numpy().tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Context:
    """Sums of a chunk's attention weights, the mean over heads, where it was computed behind P parts of text.

    Attributes:
        names: digests of the parts, in their order.
        lengths: int64 `[P]`, their tokens.
        inter: float32 `[layers, P]`, from the chunk's tokens to each part.
        intra: float32 `[layers]`, from the chunk's tokens to the chunk itself, each to itself included.
        tokens: float32 `[n]`, from each of the chunk's tokens to all parts, the mean over layers.
    """

    names: tuple[str, ...]
    lengths: torch.Tensor
    inter: torch.Tensor
    intra: torch.Tensor
    tokens: torch.Tensor


@dataclass
class Listener:
    """Sums weights in a forward that computes a chunk behind parts of text; see `partial.Watch`.

    Attributes:
        lengths: the parts' tokens.
    """

    lengths: Sequence[int]
    _inter: list[torch.Tensor] = field(default_factory=list)
    _intra: list[torch.Tensor] = field(default_factory=list)
    _tokens: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, layer: Watched) -> None:
        """Add a layer's weights."""
        weights = layer.weights().mean((0, 1, 2))
        parts = weights[:, : sum(self.lengths)].split(list(self.lengths), 1)
        received = torch.stack([part.sum(1) for part in parts])
        self._inter.append(received.sum(1))
        self._tokens.append(received.sum(0))
        self._intra.append(weights[:, sum(self.lengths) :].sum())

    def context(self, names: Sequence[str]) -> Context:
        """What was heard, of parts with these names."""
        return Context(
            tuple(names),
            torch.tensor(self.lengths),
            torch.stack(self._inter).cpu(),
            torch.stack(self._intra).cpu(),
            torch.stack(self._tokens).mean(0).cpu(),
        )
