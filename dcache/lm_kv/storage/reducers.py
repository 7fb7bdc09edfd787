"""What becomes of tokens that are not kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch

from dcache.lm_kv.codecs.codec import Codec
from dcache.lm_kv.storage.segment import Segment
from dcache.lm_kv.storage.stored import Stored


class Reducer(Protocol):
    """Makes a packed segment of a layer's stored tokens."""

    @property
    def lower(self) -> Codec | None:
        """How tokens that are not kept are stored beside the others; None where they are not."""

    @property
    def slots(self) -> int:
        """Slots that a head which loses tokens gets for them; they count in its budget."""

    def __call__(self, stored: Stored, keep: torch.Tensor, codec: Codec) -> Segment:
        """A segment of the tokens in `keep`, bool `[rows, heads, M]`; tokens of the tail are in neither.

        Those of `stored.newest` stay as they came.
        """


@dataclass(frozen=True)
class Drop:
    """Keep what is kept; the rest is gone."""

    slots: ClassVar[int] = 0
    lower: ClassVar[Codec | None] = None

    def __call__(self, stored: Stored, keep: torch.Tensor, codec: Codec) -> Segment:
        """The kept tokens as they are."""
        lengths = keep.sum(-1)
        bias = None if stored.bias is None else stored.bias[keep]
        turned_by = stored.positions if stored.rope is None else stored.rope
        return Segment(
            keys=codec.encode_keys(stored.keys[keep], lengths, turned_by[keep]),
            values=codec.encode_values(stored.values[keep], lengths),
            positions=stored.positions[keep].int(),
            lengths=lengths,
            bias=bias if bias is not None and bool(bias.any()) else None,
            score=None if stored.score is None else stored.score[keep],
            codec=codec,
        )


drop = Drop()


@dataclass(frozen=True)
class Compensate:
    """RazorAttention: one slot in each head stands for all tokens that it lost.

    It has their mean key and mean value, the position of the first of them, and the logarithm of their number
    as a bias. A slot of an earlier eviction is taken in with its number of tokens.
    """

    slots: ClassVar[int] = 1
    lower: ClassVar[Codec | None] = None

    def __call__(self, stored: Stored, keep: torch.Tensor, codec: Codec) -> Segment:
        """The kept tokens, and the slot where the first lost one was."""
        lost = stored.valid & ~keep
        bias = stored.bias
        if bias is None:
            bias = torch.zeros(keep.shape, dtype=torch.float32, device=keep.device)
        mass = bias.exp() * lost
        total = mass.sum(-1, keepdim=True)
        share = (mass / total.clamp_min(1.0))[:, :, None]
        # The first of equal maxima; heads that lost nothing have none.
        slot = torch.zeros_like(keep).scatter(-1, lost.int().argmax(-1, keepdim=True), True) & lost
        means = [(share @ states.float()).to(states.dtype) for states in (stored.keys, stored.values)]
        keys, values = (
            torch.where(slot[..., None], mean, states)
            for mean, states in zip(means, (stored.keys, stored.values), strict=True)
        )
        bias = torch.where(slot, total.clamp_min(1.0).log(), bias)
        return drop(replace(stored, keys=keys, values=values, bias=bias), keep | slot, codec)


@dataclass(frozen=True)
class Demote:
    """MiKV and ZipCache: tokens that are not kept are stored in fewer bits, for good.

    Args:
        lower: how; a codec that needs to know nothing of a layer.
    """

    lower: Codec
    slots: ClassVar[int] = 0

    def __call__(self, stored: Stored, keep: torch.Tensor, codec: Codec) -> Segment:
        """The kept tokens as they are; `LayerStore.pack` stores the others."""
        return drop(stored, keep, codec)
