"""Learned routers (Learning-to-Cache, HarmoniCa): logits by step and sublayer, in a file of tensors.

    {"routers": {"0.prob": (2 * blocks,) logits, "1.prob": ..., ...}}

Logit 2 i is the attention of block i, 2 i + 1 its MLP. A sublayer is computed where the sigmoid of its logit
is above a threshold, 0.1 as published.
"""

from __future__ import annotations

import math
from typing import Any

from dcache.errors import DcacheError
from dcache.importers.imported import MOST_BLOCKS, MOST_STEPS

THRESHOLD = 0.1
# Fixed logit of the first evaluation's router in HarmoniCa.
FIRST_STEP_LOGIT = 5.0


def logits_of(content: Any) -> list[list[float]]:
    """(T, 2 * blocks) logits of a file, checked.

    Raises:
        DcacheError: the content is not of this format.
    """
    routers = content.get("routers") if isinstance(content, dict) else None
    if not isinstance(routers, dict):
        bare = isinstance(content, dict) and "0.prob" in content
        raise DcacheError(
            'this is not a file of routers: expected {"routers": {"0.prob": tensor, ...}}'
            + (
                ". A bare state dict is U-ViT's, whose routers are for a special sampler: not supported"
                if bare
                else ""
            )
        )
    names = [f"{i}.prob" for i in range(len(routers))]
    if not 0 < len(routers) <= MOST_STEPS or set(routers) != set(names):
        raise DcacheError(
            f"expected routers 0.prob to {len(routers) - 1}.prob, got {str(list(routers))[:80]}"
        )
    rows = [_row(name, routers[name]) for name in names]
    widths = {len(row) for row in rows}
    if len(widths) != 1 or max(widths) % 2 or not 0 < max(widths) <= 2 * MOST_BLOCKS:
        raise DcacheError(
            "every router must have two logits for each block, for attention and MLP, got rows of "
            f"{', '.join(map(str, sorted(widths)[:5]))}"
        )
    return rows


def computed(logits: list[float], threshold: float) -> list[bool]:
    """Whether each sublayer of a step is computed; the published comparison is strict (>)."""
    return [_sigmoid(logit) > threshold for logit in logits]


def rows_of(table: list[list[bool]]) -> dict[str, list[bool]]:
    """Site -> row, from a table of evaluation x sublayer."""
    columns = [list(column) for column in zip(*table, strict=True)]
    return {f"{('attn', 'mlp')[i % 2]}:{i // 2}": column for i, column in enumerate(columns)}


def _row(name: str, tensor: Any) -> list[float]:
    import torch

    plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_quantized
    if not plain or tensor.ndim != 1 or not tensor.is_floating_point():
        raise DcacheError(f"router {name!r} must be a tensor of floating point numbers in one dimension")
    if tensor.numel() > 2 * MOST_BLOCKS:
        raise DcacheError(f"router {name!r} has {tensor.numel()} logits, expected at most {2 * MOST_BLOCKS}")
    values = [float(value) for value in tensor.tolist()]
    if not all(map(math.isfinite, values)):
        raise DcacheError(f"router {name!r} holds NaN or infinity")
    return values


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0
