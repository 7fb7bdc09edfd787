"""How much of an attention each token receives, computed a second time beside torch's own function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Of longer sequences so many queries are looked at, evenly spaced.
QUERIES = 1024


class Seeing(TorchFunctionMode):
    """Shows every call of torch's attention before it is made."""

    def __init__(self, see: Callable[..., None]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | named
            self.see(given["query"], given["key"], given.get("attn_mask"), named.get("scale"))
        return func(*args, **named)


def mass(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None, scale: float | None = None
) -> torch.Tensor:
    """How much attention each token receives: the mean over heads and queries, which adds up to 1.

    Args:
        query: (B, heads, N, C).
        key: (B, heads or a divisor of them, M, C).
        mask: as of scaled_dot_product_attention, bool or added.
        scale: of the products; None for 1 / sqrt(C).

    Returns:
        (B, M), float32.
    """
    with torch.no_grad():
        step = max(1, math.ceil(query.shape[-2] / QUERIES))
        some = query[..., ::step, :].float()
        keys = key.float().repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        total = torch.zeros(query.shape[0], key.shape[-2], device=query.device)
        # Head by head: the weights of all heads at once may be large.
        for head in range(query.shape[1]):
            logits = some[:, head] @ keys[:, head].transpose(-1, -2)
            logits *= 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
            if mask is not None:
                its = torch.broadcast_to(mask, (*query.shape[:-1], key.shape[-2]))[:, head, ::step]
                logits = logits.masked_fill(~its, -math.inf) if mask.dtype == torch.bool else logits + its
            total += logits.softmax(dim=-1).mean(dim=-2)
        return total / query.shape[1]
