"""`ragged_attention` and `merge` in plain torch: the specification, which also runs on CPUs."""

from __future__ import annotations

import torch

from dcache.kernels import flash
from dcache.kernels.ragged_attention.fused import fused_runs
from dcache.kernels.ragged_attention.runs import Runs


def ragged_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    runs: Runs,
    scale: float,
    softcap: float | None,
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A loop over runs, whose queries are one matrix; see `dcache.kernels.ragged_attention`.

    On CPUs torch's fused attention takes the runs of full precision, where it can.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    plain = softcap is None and bias is None and query.dtype == dtype
    if plain and flash.possible(query, keys, values):
        return fused_runs(query, keys, values, runs, scale)
    R, G, _ = query.shape
    out = torch.zeros(R, G, values.shape[1], dtype=dtype, device=query.device)
    lse = torch.full((R, G), float("-inf"), dtype=dtype, device=query.device)
    start = 0
    for run, size in enumerate(runs.sizes):
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
        # A bias of -inf may leave a run without a token.
        out[run] = logits.softmax(-1).nan_to_num(0.0) @ values[rows].to(dtype)
    return out, lse


def merge(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs `[P, ..., D]` and log-sum-exps `[P, ...]` of parts -> those of all parts together."""
    # Where no part has a token, all weights are 0.
    weights = lses.softmax(0).nan_to_num(0.0)
    return (weights[..., None] * outs).sum(0), lses.logsumexp(0)
