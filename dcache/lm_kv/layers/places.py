"""Which layers have a budget, and which of them choose what those behind them read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dcache.errors import DcacheError
from dcache.lm_kv.policy import Policy
from dcache.util.checks import is_whole


def places_of(policy: Policy, compressed: Sequence[int], count: int) -> dict[int, int]:
    """Index -> place of every layer that has a budget, in order.

    Args:
        policy: the cache's.
        compressed: indices of the layers with full attention.
        count: how many layers the model has.

    Raises:
        DcacheError: `dense_layers` has other indices, or all that could be compressed.
    """
    dense = policy.dense_layers
    outside = ", ".join(str(i) for i in dense if i not in range(count))
    if outside:
        raise DcacheError(f"dense_layers must be indices from 0 to {count - 1}, got {outside}")
    places = {i: place for place, i in enumerate(i for i in compressed if i not in dense)}
    if not places:
        raise DcacheError(
            f"dense_layers={dense} leaves nothing to compress: the layers with full attention are "
            f"{', '.join(map(str, compressed))}"
        )
    return places


def choosers_of(policy: Policy, compressed: Sequence[int], places: Mapping[int, int]) -> frozenset[int]:
    """Indices of the layers that choose for those behind them.

    Args:
        policy: the cache's.
        compressed: indices of the layers with full attention.
        places: of the layers that have a budget.

    Raises:
        DcacheError: there is no such layer, or none that has a budget and does not choose is behind it.
    """
    count = len(compressed)
    wanted = {
        int(place) if is_whole(place) else math.floor(place * count + 1e-9) for place in policy.choosing
    }
    beyond = [place for place in sorted(wanted) if place >= count]
    if beyond:
        raise DcacheError(
            f"layer {beyond[0]} cannot choose: of {count} layers with full attention the first is 0"
        )
    choosers = frozenset(compressed[place] for place in wanted)
    if choosers and not any(i > min(choosers) and i not in choosers for i in places):
        raise DcacheError(
            f"no layer is left to read what layer {min(choosers)} chooses: the model has {count} layers with "
            "full attention. Let an earlier one choose, or make fewer of them dense."
        )
    return choosers
