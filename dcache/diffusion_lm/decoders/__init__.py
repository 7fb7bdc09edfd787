"""Decoders: which sampled tokens of a step are committed."""

from __future__ import annotations

from dcache.diffusion_lm.decoders.base import Decoder, Proposal
from dcache.diffusion_lm.decoders.guided import guided
from dcache.diffusion_lm.decoders.rules import (
    DECODERS,
    entropy_bound,
    factor,
    left,
    low_confidence,
    make_decoder,
    random,
    threshold,
)

__all__ = [
    "DECODERS",
    "Decoder",
    "Proposal",
    "entropy_bound",
    "factor",
    "guided",
    "left",
    "low_confidence",
    "make_decoder",
    "random",
    "threshold",
]
