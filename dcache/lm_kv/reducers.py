"""What becomes of tokens that are not kept."""

from __future__ import annotations

from typing import Protocol

import torch

from dcache.lm_kv.codec import Codec
from dcache.lm_kv.segment import Segment
from dcache.lm_kv.stored import Stored


class Reducer(Protocol):
    """Makes a packed segment of a layer's stored tokens."""

    def __call__(self, stored: Stored, keep: torch.Tensor, codec: Codec) -> Segment:
        """A segment of the tokens in `keep`, bool `[rows, heads, M]`."""


def drop(stored: Stored, keep: torch.Tensor, codec: Codec) -> Segment:
    """Keep what is kept; the rest is gone."""
    lengths = keep.sum(-1)
    bias = None if stored.bias is None else stored.bias[keep]
    return Segment(
        keys=codec.encode_keys(stored.keys[keep], lengths),
        values=codec.encode_values(stored.values[keep], lengths),
        positions=stored.positions[keep].int(),
        lengths=lengths,
        bias=bias if bias is not None and bool(bias.any()) else None,
        score=None if stored.score is None else stored.score[keep],
        codec=codec,
    )
