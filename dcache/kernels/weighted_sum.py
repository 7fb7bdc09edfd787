"""`weighted_sum`: base + sum_i w_i z_i, the arithmetic of every prediction.

This is the plain torch reference. It is also what runs on CPUs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_NARROW = (torch.float16, torch.bfloat16)


def weighted_sum(
    base: torch.Tensor | None, anchors: Sequence[torch.Tensor], weights: Sequence[float], dtype: torch.dtype
) -> torch.Tensor:
    """Return `base + sum_i weights[i] * anchors[i]` in `dtype`, as a new tensor.

    Args:
        base: tensor of the anchors' shape added with weight one, or None.
        anchors: at least one tensor, all of one shape; any floating dtype.
        weights: as many Python floats as anchors.
        dtype: the result's dtype. Narrow dtypes accumulate in float32.
    """
    wide = torch.float32 if dtype in _NARROW and (base is not None or len(anchors) > 1) else dtype
    if base is None:
        first = anchors[0].to(wide)
        total = first.clone() if weights[0] == 1.0 and first is anchors[0] else first * weights[0]
    else:
        total = torch.add(base.to(wide), anchors[0].to(wide), alpha=weights[0])
    for i in range(1, len(anchors)):
        total.add_(anchors[i].to(wide), alpha=weights[i])
    return total.to(dtype)
