"""`ragged_attention` and `merge` in plain torch: the specification, which also runs on CPUs."""

from __future__ import annotations

import torch


def ragged_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    softcap: float | None,
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A loop over runs, whose queries are one matrix; see `dcache.kernels.ragged_attention`."""
    R, G, _ = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    out = torch.zeros(R, G, values.shape[1], dtype=dtype, device=query.device)
    lse = torch.full((R, G), float("-inf"), dtype=dtype, device=query.device)
    start = 0
    for run, size in enumerate(lengths.tolist()):
        rows = slice(start, start + size)
        start += size
        if not size:
            continue
        logits = (query[run].to(dtype) @ keys[rows].to(dtype).mT) * scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        if bias is not None:
            logits = logits + bias[rows].to(dtype)
        lse[run] = logits.logsumexp(-1)
        out[run] = logits.softmax(-1) @ values[rows].to(dtype)
    return out, lse


def merge(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs `[P, ..., D]` and log-sum-exps `[P, ...]` of parts -> those of all parts together."""
    lse = lses.logsumexp(0)
    # Where no part has a token, all weights are 0.
    weights = (lses - lse.masked_fill(lse == float("-inf"), 0.0)).exp()
    return (weights[..., None] * outs).sum(0), lse
