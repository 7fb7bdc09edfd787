"""ZipCache."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.low_bit import LowBitCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import ColumnSums
from dcache.lm_kv.scoring.scorers import ReceivedMean
from dcache.lm_kv.storage.reducers import Demote
from dcache.util.checks import check_whole


@preset
def zipcache(
    budget: float | None = None,
    bits: int = 4,
    low: int = 2,
    group: int = 32,
    residual: int = 32,
    window: float = 32,
    every: int = 100,
) -> Policy:
    """Store tokens with little attention in fewer bits (after He et al. 2024, arXiv 2405.14256).

    Nothing is evicted. Score: the mean attention that a token received from the queries that see it. A token
    that fell to few bits stays there. It must see all weights.

    Args:
        budget: tokens that have more bits, as in `Policy`.
        bits: of these: 2, 3, 4 or 8.
        low: bits of the others, below `bits`.
        group: tokens of keys, and channels of values, that share a step.
        residual: newest tokens of a row that stay as they came while tokens are decoded, at least.
        window: newest tokens that stay as they came when others are encoded.
        every: decoded tokens between two rankings; 100 as published.
    """
    check_whole("bits", bits, 2)
    check_whole("low", low, 2)
    if low >= bits:
        raise DcacheError(f"low must be below bits={bits}, got {low!r}: expected fewer bits for the others")
    return Policy(
        scorer=ReceivedMean(),
        observer=ColumnSums(),
        codec=LowBitCodec(bits, group, residual),
        reducer=Demote(LowBitCodec(low, group, 0)),
        budget=budget,
        sinks=0,
        window=window,
        every=every,
    )
