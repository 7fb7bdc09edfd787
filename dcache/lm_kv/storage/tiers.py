"""Segments of two precisions: what is kept, and below it what would have been lost."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dcache.lm_kv.codecs.codec import Codec
from dcache.lm_kv.storage.reducers import drop
from dcache.lm_kv.storage.segment import Segment, join
from dcache.lm_kv.storage.stored import Stored


def is_lower(segments: Sequence[Segment], like: torch.Tensor, lower: Codec | None) -> torch.Tensor:
    """Bool like `[rows, heads, M]`: stored tokens whose segment has the lower codec."""
    mask, start = torch.zeros_like(like), 0
    for segment in segments:
        mask[:, :, start : start + segment.width] = lower is not None and segment.codec == lower
        start += segment.width
    return mask & like


def two_tiers(
    segments: Sequence[Segment], stored: Stored, keep: torch.Tensor, codec: Codec, lower: Codec
) -> tuple[Segment, Segment]:
    """What is kept, and the rest in the lower codec.

    Codes are taken as they are: a token that stays in its tier is not encoded again. One that fell stays
    where it is.

    Args:
        segments: of a layer.
        stored: their tokens, and those of the tail that leave it.
        keep: bool `[rows, heads, M]`.
        codec: of the kept tokens.
        lower: of the others.
    """
    fallen = is_lower(segments, stored.valid, lower)
    high: list[Segment] = []
    low: list[Segment] = []
    start = 0
    for segment in segments:
        piece = slice(start, start + segment.width)
        mask = segment.valid if segment.codec == lower else keep[:, :, piece] & segment.valid
        (low if segment.codec == lower else high).append(segment.subset(mask))
        start += segment.width
    newest = torch.zeros_like(keep)
    newest[:, :, start:] = True
    high.append(drop(stored, keep & newest, codec))
    low.append(drop(stored, stored.valid & ~keep & ~fallen, lower))
    return join(high), join(low)
