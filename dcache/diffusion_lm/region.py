"""Which positions a caller's own loop generates: masked ones, but not what guidance masks beyond them."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def region_of(ids: torch.Tensor, others: Iterable[torch.Tensor], mask_id: int) -> torch.Tensor:
    """The generation region of a batch when its loop begins, bool `[B, T]`.

    Guidance masks the prompt too, in other rows of the batch or in calls in turn. Such a row is another one
    with more masks, all before that one's or everywhere, and generates what that one does. Rows of other
    texts have regions of their own.

    Args:
        ids: int64 `[B, T]`.
        others: ids of the streams that take turns with it, `[B, T]` each.
        mask_id: id of the mask token.
    """
    masked = ids == mask_id
    region = masked
    rows = [row.expand_as(ids) for row in ids] if len(ids) > 1 else []
    for other in (*rows, *others):
        there = other == mask_id
        agrees = ((ids == other) | masked).all(1) & there.any(1)
        behind = (masked & ~there & (there.cumsum(1) > 0)).any(1) & ~masked.all(1)
        region = torch.where((agrees & ~behind)[:, None], region & there, region)
    return region
