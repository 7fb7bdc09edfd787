"""ZipVL."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.codec import Codec, Plain
from dcache.lm_kv.codecs.low_bit import LowBitCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.coverage import AttentionShare, ReceivedMeanOfTheLayer
from dcache.lm_kv.scoring.observers import ColumnSums
from dcache.lm_kv.storage.reducers import Demote, Reducer, drop
from dcache.util.checks import check_whole, is_number

# Bits of kept tokens, and tokens and channels that share a step, where the others get fewer.
BITS, GROUP = 4, 32


@preset
def zipvl(
    budget: float = 1.0,
    share: float = 0.975,
    low: int = 0,
    sinks: int = 0,
    window: float = 32,
    every: int = 0,
) -> Policy:
    """Keep of each layer as many tokens as reach a share of its attention (He et al. 2024, arXiv 2410.08584).

    A layer's tokens are the fewest that together received the share; which ones they are is said by the mean
    attention from the queries that see them. The attention decides how many, up to the budget. It must see
    all weights.

    Args:
        budget: the most that a layer keeps, as in `Policy`; 1.0 for no limit.
        share: of a layer's attention, above 0 and at most 1.
        low: bits of the other tokens, while kept ones have 4, as in the paper's first version; 0 drops them,
            as in its second.
        sinks: first tokens kept beside the score.
        window: newest tokens kept beside the score.
        every: decoded tokens between evictions; 0 evicts after prompts alone, as published.
    """
    if not is_number(share) or not 0.0 < share <= 1.0:
        raise DcacheError(f"share must be a number above 0 and at most 1, got {share!r}")
    codec: Codec = Plain()
    reducer: Reducer = drop
    if check_whole("low", low, 0):
        codec, reducer = LowBitCodec(BITS, GROUP, 32), Demote(LowBitCodec(low, GROUP, 0))
    return Policy(
        scorer=ReceivedMeanOfTheLayer(),
        observer=ColumnSums(),
        coverage=AttentionShare(share),
        codec=codec,
        reducer=reducer,
        budget=budget,
        sinks=sinks,
        window=window,
        allocation="coverage",
        every=every,
    )
