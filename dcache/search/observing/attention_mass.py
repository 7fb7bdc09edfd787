"""Attention received by each token, recomputed beside torch's attention function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Longer sequences are sampled: at most this many queries, evenly spaced.
QUERIES = 1024


class AttentionCalls(TorchFunctionMode):
    """Calls `see(query, key, value, mask, scale)` before each of torch's scaled_dot_product_attention."""

    def __init__(self, see: Callable[..., None]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        # What a call compiles for itself is traced here, and not run.
        if func is F.scaled_dot_product_attention and not torch.compiler.is_compiling():
            given = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | named
            self.see(given["query"], given["key"], given["value"], given.get("attn_mask"), named.get("scale"))
        return func(*args, **named)


def mass(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None, scale: float | None = None
) -> torch.Tensor:
    """How much attention each token receives: the mean over heads and queries, which adds up to 1.

    Args:
        query: (B, heads, N, C).
        key: (B, heads or a divisor of them, M, C).
        mask: as for scaled_dot_product_attention, bool or additive; broadcast to (B, heads, N, M).
        scale: factor of the products; None is 1 / sqrt(C).

    Returns:
        (B, M), float32.
    """
    with torch.no_grad():
        step = max(1, math.ceil(query.shape[-2] / QUERIES))
        some = query[..., ::step, :].float()
        keys = key.float().repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        total = torch.zeros(query.shape[0], key.shape[-2], device=query.device)
        # One head at a time, to limit memory: the weights are (B, N, M) for each.
        for head in range(query.shape[1]):
            logits = some[:, head] @ keys[:, head].transpose(-1, -2)
            logits *= 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
            if mask is not None:
                head_mask = torch.broadcast_to(mask, (*query.shape[:-1], key.shape[-2]))[:, head, ::step]
                logits = (
                    logits.masked_fill(~head_mask, -math.inf)
                    if mask.dtype == torch.bool
                    else logits + head_mask
                )
            total += logits.softmax(dim=-1).mean(dim=-2)
        return total / query.shape[1]
