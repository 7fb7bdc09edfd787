"""KVCrush: the important tokens, and some of the others that stand for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dcache.lm_kv.scoring.by_position import from_grid, layer_mean, on_grid
from dcache.lm_kv.scoring.scorers import Context, older_than_window, ranks, window_attention
from dcache.lm_kv.storage.stored import Stored

ANCHORS = ("alternating", "mean", "ones", "zeros")
# Above every attention of a token.
IMPORTANT = 2.0


@dataclass(frozen=True)
class Representatives:
    """KVCrush: part of the budget to the most attended tokens, the rest to representatives of the others.

    A token's signature has a bit for each query head: whether the head would keep it. The others are put in
    the order of their signatures' Hamming distance to an anchor, of equal ones the oldest first, and every
    so many of them are taken. All KV heads of a layer keep the same tokens. It reads the last queries, so the
    policy's observer must be `QueryWindow`; their own tokens are no part of it.

    Args:
        share: of the budget beside the window that goes to the most attended tokens, 0 to 1.
        anchor: one of `ANCHORS`; "mean" has the bits that most tokens have.
    """

    share: float = 0.5
    anchor: str = "alternating"
    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """2 + attention of the important ones, 1 of the representatives, the attention of all others."""
        weights, counted = window_attention(stored, context)
        heads = weights.sum(3) / counted.sum(1).clamp_min(1)[:, None, None, None]
        older = older_than_window(stored, context)
        tokens = torch.zeros_like(context.seen) if context.tokens is None else context.tokens
        window = counted.shape[1] if context.window is None else context.window
        room = (tokens - window).clamp_min(0)[:, None, None]
        important = (room * self.share).floor()
        mean = layer_mean(heads.mean(2), stored).masked_fill(~older, float("-inf"))
        chosen = ranks(mean) < important
        kept = ranks(heads.masked_fill(~older[:, :, None], float("-inf"))) < important[..., None]
        distance = self._distance(kept, older, stored)
        others = older & ~chosen
        rank = ranks(-distance.masked_fill(~others, float("inf")))
        count = others.sum(-1, keepdim=True).clamp_min(1)
        picked = (room - important).long()
        # Every (count / picked)-th: exactly `picked` of them cross a whole number.
        taken = others & ((rank + 1) * picked // count > rank * picked // count)
        score = mean.masked_fill(~older, 0.0)
        return torch.where(chosen, IMPORTANT + score, torch.where(taken, torch.ones_like(score), score * 0.5))

    def _distance(self, kept: torch.Tensor, older: torch.Tensor, stored: Stored) -> torch.Tensor:
        """Hamming distances `[B, h, M]` of signatures to the anchor; `kept` is bool `[B, h, G, M]`."""
        groups = [on_grid(kept[:, :, g].float(), stored) for g in range(kept.shape[2])]
        # In the order of the query heads, as the anchor is.
        bits = torch.stack(groups, 2).flatten(1, 2)
        heads = torch.arange(bits.shape[1], device=bits.device)
        if self.anchor == "mean":
            tokens = on_grid(older.float(), stored).amax(1, keepdim=True)
            anchor = ((bits * tokens).sum(-1) * 2 > tokens.sum(-1)).float()
        else:
            anchor = {"alternating": heads % 2, "ones": heads * 0 + 1, "zeros": heads * 0}[self.anchor]
            anchor = anchor.float()[None]
        distance = (bits - anchor[..., None]).abs().sum(1, keepdim=True)
        return from_grid(distance.expand(-1, kept.shape[1], -1), stored)
