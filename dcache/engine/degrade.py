"""Levels by which a method is degraded during a run to save memory: fewer anchors, then narrower dtypes."""

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
    """A level at which one or more denoisers are degraded; the default is not degraded.

    Attributes:
        precision: number of steps to a narrower dtype.
        order: number by which the order is lowered.
    """

    precision: int = 0
    order: int = 0

    def predictor(self, predictor: Predictor) -> Predictor:
        """The predictor at this level, at least of order 0."""
        return lowered(predictor, max(0, predictor.order - self.order))

    def store(self, stores: list[torch.dtype | None]) -> torch.dtype | None:
        """The dtype of anchors at this level, at most the last of `stores`, which `precisions` lists."""
        return stores[min(self.precision, len(stores) - 1)]


def lowest_level(levels: Iterable[DegradeLevel]) -> DegradeLevel:
    """The level at which every denoiser is at its own lowest level."""
    every = list(levels)
    return DegradeLevel(
        max((level.precision for level in every), default=0), max((level.order for level in every), default=0)
    )


def levels_to(lowest: DegradeLevel) -> Iterator[DegradeLevel]:
    """All levels down to the lowest: order first, then precision."""
    for precision in range(lowest.precision + 1):
        for order in range(lowest.order + 1):
            yield DegradeLevel(precision, order)


def precisions(regions: Iterable[Region], branches: Iterable[Branch]) -> list[torch.dtype | None]:
    """The present store dtype of the anchors (None: the output's), followed by narrower ones."""
    codecs = {region.codec for region in regions}
    if len({codec.frame for codec in codecs}) != 1:
        # `Method.codec` is one name for all sites, so it cannot give a dtype to both frames.
        return [None]
    now = next(iter(codecs)).store
    histories = [history for branch in branches for history in branch.histories.values()]
    dtypes = [leaf[1] for h in histories for leaf in h.like if leaf is not None and leaf[1].is_floating_point]
    widest = now.itemsize if now is not None else max((dtype.itemsize for dtype in dtypes), default=1)
    half = [torch.bfloat16] if widest > torch.bfloat16.itemsize else []
    return [now, *half, torch.int8] if widest > 1 else [now]


def lowered(predictor: Predictor, order: int) -> Predictor:
    """The same predictor with at most `order + 1` anchors; `Reuse` if it has no such order."""
    if order >= predictor.order:
        return predictor
    lower = predictor.lowered(order) if order > 0 else None
    return Reuse() if lower is None else lower


def shrink_history(history: History, predictor: Predictor, codec: Codec | None) -> None:
    """Drop the anchors that a lowered predictor does not read, and encode the others anew.

    Args:
        history: changed in place.
        predictor: the lowered predictor.
        codec: the codec of the anchors from now on; None leaves them unchanged.
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
    narrow: list[Stored | None] = []
    for leaf in leaves:
        wide = leaf if leaf is None or isinstance(leaf, torch.Tensor) else leaf.to(leaf.dtype)
        narrow.append(None if wide is None else codec.close(None, wide))
    return tuple(narrow)
