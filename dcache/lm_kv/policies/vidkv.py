"""VidKV."""

from __future__ import annotations

from dcache.lm_kv.codecs.mixed import MixedCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import Recency


@preset
def vidkv(
    budget: float = 1.0,
    key_bits: float = 1.5,
    value_bits: float = 1.58,
    group: int = 32,
    residual: int = 32,
) -> Policy:
    """Store keys in 1.5 bits and values in three levels, per channel (Tao et al. 2025, arXiv 2503.16257).

    Made for video: tokens that are much alike. Nothing is evicted; as `codec=vidkv(...)` it stores what any
    other policy keeps. It saves memory: on CPUs decoding takes longer, not less.

    Args:
        budget: as in `Policy`; below 1.0 the newest tokens are kept.
        key_bits: of a number of keys, from 1 to 2: `key_bits - 1` of a run's channels, those with the largest
            range, have 2 bits, the others a sign for each of their Fourier coefficients.
        value_bits: of a number of values: 1.58, stored as five numbers to a byte, or 2.
        group: tokens that share a step in a channel.
        residual: newest tokens of a row that stay as they came, at least.
    """
    codec = MixedCodec(key_bits, value_bits, group, residual)
    return Policy(scorer=Recency(), budget=budget, sinks=0, window=0, codec=codec)
