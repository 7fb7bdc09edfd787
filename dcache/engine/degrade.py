"""What can be given up in mid-run to hold fewer bytes: anchors (the order), then their precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from dcache.cache.codec import Codec
from dcache.cache.history import Branch, History, Leaves
from dcache.engine.region import Region
from dcache.kernels.packed import Stored
from dcache.predictors import Predictor, Reuse


@dataclass(frozen=True)
class DegradeLevel:
    """How far several denoisers go down together.

    Attributes:
        precision: how many dtypes narrower anchors are kept.
        order: how much lower the order is.
    """

    precision: int = 0
    order: int = 0

    def predictor(self, predictor: Predictor) -> Predictor:
        """The predictor at this level, or at the lowest it has."""
        return lowered(predictor, max(0, predictor.order - self.order))

    def store(self, stores: list[torch.dtype | None]) -> torch.dtype | None:
        """The dtype of anchors at this level, or the narrowest; `stores` as `precisions` gives them."""
        return stores[min(self.precision, len(stores) - 1)]


def lowest_level(levels: Iterable[DegradeLevel]) -> DegradeLevel:
    """The level at which every denoiser has given up all but its sites."""
    each = list(levels)
    return DegradeLevel(
        max((level.precision for level in each), default=0), max((level.order for level in each), default=0)
    )


def levels_to(lowest: DegradeLevel) -> Iterator[DegradeLevel]:
    """From nothing given up to the lowest level: order first, then precision."""
    for precision in range(lowest.precision + 1):
        for order in range(lowest.order + 1):
            yield DegradeLevel(precision, order)


def precisions(regions: Iterable[Region], branches: Iterable[Branch]) -> list[torch.dtype | None]:
    """What anchors are kept in now (None: their own dtype), and the narrower dtypes that they could be."""
    codecs = {region.codec for region in regions}
    if len({codec.frame for codec in codecs}) != 1:
        # One name could not say both the frames and the dtype.
        return [None]
    now = next(iter(codecs)).store
    histories = [history for branch in branches for history in branch.histories.values()]
    own = [like[1] for h in histories for like in h.like if like is not None and like[1].is_floating_point]
    widest = now.itemsize if now is not None else max((dtype.itemsize for dtype in own), default=1)
    half = [torch.bfloat16] if widest > torch.bfloat16.itemsize else []
    return [now, *half, torch.int8] if widest > 1 else [now]


def lowered(predictor: Predictor, order: int) -> Predictor:
    """The same predictor with at most `order + 1` anchors; reuse where it has no such order."""
    if order >= predictor.order:
        return predictor
    lower = predictor.lowered(order) if order > 0 else None
    return Reuse() if lower is None else lower


def shrink_history(history: History, predictor: Predictor, codec: Codec | None) -> None:
    """Drop the anchors that a lower predictor does not read, and narrow the others.

    Args:
        history: changed in place.
        predictor: reads it from now on.
        codec: encodes what is kept; None leaves it as it is.
    """
    history.limit = predictor.order + 1
    history.spare = ()
    while len(history.taus) > history.limit:
        history.drop(0)
    if not predictor.forecasts:
        history.forecast = None
    if codec is not None:
        history.leaves = [_narrower(leaves, codec) for leaves in history.leaves]
        history.forecast = None if history.forecast is None else _narrower(history.forecast, codec)


def _narrower(leaves: Leaves, codec: Codec) -> Leaves:
    kept: list[Stored | None] = []
    for leaf in leaves:
        wide = leaf if leaf is None or isinstance(leaf, torch.Tensor) else leaf.to(leaf.dtype)
        kept.append(None if wide is None else codec.close(None, wide))
    return tuple(kept)
