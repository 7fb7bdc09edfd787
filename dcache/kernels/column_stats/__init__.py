"""`column_stats`: the attention that each key receives from many queries, without the matrix of weights.

Sums and maxima of softmax columns are what eviction policies score tokens by.
"""

from __future__ import annotations

import torch

from dcache.errors import DcacheError
from dcache.kernels import launch
from dcache.kernels.column_stats import reference

__all__ = ["column_stats"]


def column_stats(
    query: torch.Tensor,
    keys: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    *,
    softcap: float | None = None,
    bias: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    positions: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum and maximum over a run's queries of the weight that each of its keys gets.

    Args:
        query: `[R, Q, D]`, the queries of each run.
        keys: `[N, D]`, the runs one after the other.
        lengths: int64 `[R]`, keys of each run; they sum to N.
        scale: factor of the dot products.
        softcap: logits become `softcap * tanh(logits / softcap)`; None leaves them.
        bias: float32 `[N]`, added to each key's logits; -inf hides a key.
        sinks: float32 `[R, Q]`, one more logit of each query, which takes mass and is no key.
        positions: int64 `[R, Q]` and `[N]`: a query sees keys at its own position and before it, so one at -1
            sees none and gives nothing. None: every query sees every key.

    Returns:
        Sums and maxima `[N]`, float32 (float64 for float64 queries).

    Raises:
        DcacheError: shapes do not fit.
    """
    if query.ndim != 3 or keys.ndim != 2 or (len(query), query.shape[2]) != (len(lengths), keys.shape[1]):
        raise DcacheError(
            f"column_stats: expected queries [R, Q, D] and keys [N, D] of {len(lengths)} runs, got "
            f"{tuple(query.shape)} and {tuple(keys.shape)}"
        )
    if launch.possible(query.device) and launch.taken("column_stats", query, keys, bias, sinks):
        from dcache.kernels.column_stats import triton

        return triton.column_stats(query, keys, lengths, scale, softcap, bias, sinks, positions)
    return reference.column_stats(query, keys, lengths, scale, softcap, bias, sinks, positions)
