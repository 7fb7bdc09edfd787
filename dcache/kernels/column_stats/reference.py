"""`column_stats` in plain torch: the specification, which also runs on CPUs."""

from __future__ import annotations

import torch

# Logits that are held at a time.
BLOCK = 1 << 22


def column_stats(
    query: torch.Tensor,
    keys: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    softcap: float | None,
    bias: torch.Tensor | None,
    sinks: torch.Tensor | None,
    positions: tuple[torch.Tensor, torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A loop over runs and over blocks of queries; see `dcache.kernels.column_stats`."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    sums, maxima = (torch.zeros(len(keys), dtype=dtype, device=keys.device) for _ in range(2))
    start = 0
    for run, size in enumerate(lengths.tolist()):
        rows = slice(start, start + size)
        start += size
        if not size:
            continue
        step = max(1, BLOCK // size)
        for first in range(0, query.shape[1], step):
            some = slice(first, first + step)
            logits = (query[run, some].to(dtype) @ keys[rows].to(dtype).mT) * scale
            if softcap is not None:
                logits = softcap * torch.tanh(logits / softcap)
            if bias is not None:
                logits = logits + bias[rows].to(dtype)
            if positions is not None:
                hidden = positions[1][rows] > positions[0][run, some, None]
                logits = logits.masked_fill(hidden, float("-inf"))
            lse = logits.logsumexp(-1, keepdim=True)
            if sinks is not None:
                lse = torch.logaddexp(lse, sinks[run, some, None].to(dtype))
            weights = (logits - lse.masked_fill(lse == float("-inf"), 0.0)).exp()
            sums[rows] += weights.sum(0)
            maxima[rows] = torch.maximum(maxima[rows], weights.amax(0))
    return sums, maxima
