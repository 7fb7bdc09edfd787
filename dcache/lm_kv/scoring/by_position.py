"""A layer's tokens on a grid of positions, where runs of unequal lengths meet."""

from __future__ import annotations

import torch

from dcache.lm_kv.storage.stored import Stored


def layer_mean(values: torch.Tensor, stored: Stored, heads: torch.Tensor | None = None) -> torch.Tensor:
    """Each token's mean over the KV heads that hold it, float32 `[B, h, M]`; 0 at unused slots.

    Args:
        values: float32 `[B, h, M]`.
        stored: the layer's tokens.
        heads: bool `[B, h]`, those that count; None for all of them.
    """
    counted = stored.valid if heads is None else stored.valid & heads[..., None]
    total = on_grid(values.masked_fill(~counted, 0.0), stored).sum(1)
    count = on_grid(counted.to(values.dtype), stored).sum(1).clamp_min(1.0)
    return from_grid((total / count)[:, None].expand(-1, values.shape[1], -1), stored)


def flags_by_position(
    before: torch.Tensor | None, positions: torch.Tensor, flags: torch.Tensor, columns: int
) -> torch.Tensor:
    """Flags of all tokens so far, bool `[B, T]` by position, T at least `columns`.

    Args:
        before: the same of earlier calls; None where there were none.
        positions: int64 `[B, S]`, of this call's tokens.
        flags: bool `[B, S]`, False at pads.
        columns: so far, this call's too.
    """
    known = flags[:, :0] if before is None else before
    grid = known.new_zeros(len(known), max(columns, known.shape[1]))
    grid[:, : known.shape[1]] = known
    # Pads have positions of other tokens and no flag.
    return grid.long().scatter_add(1, positions, flags.long()) > 0


def on_grid(values: torch.Tensor, stored: Stored, multiple: int = 1) -> torch.Tensor:
    """Values `[B, h, M]` by position, `[B, h, T]`, 0 where no token is; T is a multiple of a number."""
    rows, heads, slots = values.shape
    longest = int(stored.positions.max()) + 1 if slots else 0
    grid = values.new_zeros(rows, heads, max(1, -(-longest // multiple)) * multiple)
    # Unused slots have positions of other tokens: they add 0.
    return grid.scatter_add(-1, stored.positions, values * stored.valid)


def from_grid(grid: torch.Tensor, stored: Stored) -> torch.Tensor:
    """The inverse of `on_grid`; 0 at unused slots."""
    return grid.gather(-1, stored.positions) * stored.valid
