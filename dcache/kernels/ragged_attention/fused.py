"""Runs on CPUs by torch's fused attention."""

from __future__ import annotations

import torch

from dcache.kernels import flash
from dcache.kernels.ragged_attention.runs import Runs


def fused_runs(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, runs: Runs, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of each run's queries on its tokens, where `flash.possible` says so.

    All runs at once where they are equally long, else one after the other. In half precision torch's
    exponentials are good to 2e-5, less than what its outputs are rounded by.

    Args:
        query: `[R, G, D]`.
        keys: `[N, D]`, N at least 1.
        values: `[N, D]`.
        runs: tokens of each run.
        scale: factor of the dot products.

    Returns:
        Outputs `[R, G, D]` in the query's dtype and log-sum-exps `[R, G]`; 0 and -inf for runs without a
        token.
    """
    R, G, D = query.shape
    if runs.uniform:
        shape = (1, R, -1, D)
        out, lse = flash.flash(query[None], keys.view(shape), values.view(shape), scale)
        return out[0], lse[0]
    outs, lses = [], []
    queries = query.view(R, 1, 1, G, D).unbind()
    pieces = (torch.split(tokens[None, None], runs.sizes, 2) for tokens in (keys, values))
    for q, k, v, size in zip(queries, *pieces, runs.sizes, strict=True):
        if size:
            out, lse = flash.flash(q, k, v, scale)
        else:
            dtype = torch.promote_types(q.dtype, torch.float32)
            out, lse = torch.zeros_like(q), q.new_full((1, 1, G), float("-inf"), dtype=dtype)
        outs.append(out)
        lses.append(lse)
    return torch.cat(outs).view(R, G, D), torch.cat(lses).view(R, G)
