"""What the kept queries of a window attend to, as sums over them: no weight is stored."""

from __future__ import annotations

import torch

from dcache.kernels.column_stats import column_stats
from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.scoring.observers import State
from dcache.lm_kv.storage.stored import Stored


def window_columns(
    stored: Stored, state: State, logits: Logits
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attention that each stored token gets from the kept queries, causal by position.

    Args:
        stored: a layer's tokens.
        state: what `QueryWindow` gathered.
        logits: how the layer makes logits.

    Returns:
        Sums over the queries, the mean over the group's heads, and maxima over both, float32 `[B, h, M]`;
        bool `[B, W]`, which queries there are.
    """
    query, counted = state["query"].float(), state["valid"]
    rows, heads, slots, size = stored.keys.shape
    groups, window = query.shape[1] // heads, query.shape[2]
    # Queries that are not there stand before every key.
    at = state["position"].masked_fill(~counted, -1)[:, None, None].expand(-1, heads, groups, -1)
    bias = torch.zeros_like(stored.positions, dtype=torch.float32) if stored.bias is None else stored.bias
    sinks = logits.sinks
    if sinks is not None:
        sinks = sinks.float().view(1, heads, groups, 1).expand(rows, -1, -1, window)
        sinks = sinks.reshape(rows * heads, groups * window)
    columns = column_stats(
        query.reshape(rows * heads, groups * window, size),
        stored.keys.reshape(-1, size),
        torch.full((rows * heads,), slots, device=query.device),
        logits.scaling,
        softcap=logits.softcap,
        bias=bias.masked_fill(~stored.valid, float("-inf")).flatten(),
        sinks=sinks,
        positions=(at.reshape(rows * heads, groups * window), stored.positions.flatten()),
    )
    sums, maxima = (column.view(rows, heads, slots) for column in columns)
    return sums / groups, maxima, counted


def window_mean(stored: Stored, state: State, logits: Logits) -> torch.Tensor:
    """The mean over the queries, and over the group's heads, of what `window_columns` sums, `[B, h, M]`."""
    sums, _, counted = window_columns(stored, state, logits)
    return sums / counted.sum(1).clamp_min(1)[:, None, None]
