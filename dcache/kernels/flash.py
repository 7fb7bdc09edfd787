"""Torch's fused attention on CPUs, with the log-sum-exps that `scaled_dot_product_attention` keeps back.

Results of several parts of the keys can be merged by them, so that no part is copied to lie beside another.
"""

from __future__ import annotations

import torch

_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})


def possible(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> bool:
    """Whether the operator takes these `[..., n, d]`: it crashes at no keys, and has one head size."""
    dtype = query.dtype
    return (
        query.device.type == "cpu"
        and dtype in _DTYPES
        and keys.dtype == dtype == values.dtype
        and query.shape[-1] == keys.shape[-1] == values.shape[-1]
        and keys.shape[-2] > 0
        and query.shape[-2] > 0
        and keys.stride(-1) == 1 == values.stride(-1)
    )


def flash(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    added: torch.Tensor | None = None,
    causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and log-sum-exps of its logits.

    Args:
        query: `[B, H, S, d]`.
        keys: `[B, h, n, d]`, h a divisor of H; query head i reads head i * h // H.
        values: as the keys.
        scale: factor of the dot products.
        added: `[B or 1, H or 1, S or 1, n]`, added to the logits, float32 or the query's dtype; None for
            nothing.
        causal: query i sees keys 0 to i; not together with `added`.

    Returns:
        Outputs `[B, H, S, d]` in the query's dtype, and `[B, H, S]` in float32, or float64 for float64: 0 and
        -inf where a query sees no key.
    """
    out, lse = torch._scaled_dot_product_flash_attention_for_cpu(
        query, keys, values, is_causal=causal, attn_mask=added, scale=scale
    )
    if added is not None:
        # The operator says 0 where nothing is seen.
        lse = lse.masked_fill(added.amax(-1) == float("-inf"), float("-inf"))
    return out, lse
