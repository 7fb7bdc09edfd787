"""Chunks whose size follows how unevenly a layer's attention falls, and bounds of their keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.scoring.observers import State
from dcache.lm_kv.scoring.selectors import ByItself, Index, PageBounds


@dataclass(frozen=True)
class SkewedChunks(ByItself):
    """LeoAM: `PageBounds` of chunks, large where most tokens of a layer get no attention, small elsewhere.

    Every row of a layer has a size of its own: of the sizes `page`, 2 `page`, 4 `page` and so on the one at
    the share of its tokens in the desert. A chunk's pages have the chunk's bound, so they come one after the
    other. The policy's observer must be `QueryWindow`.

    Args:
        page: tokens of the smallest chunk; at least 1.
        sizes: how many sizes there are; at least 1.
        desert: a token is in the desert if it got less than this part of an even share; above 0.
    """

    page: int = 8
    sizes: int = 4
    desert: float = 0.1
    reads_attention: ClassVar[bool] = True

    def index(self, keys: torch.Tensor, valid: torch.Tensor, state: State) -> Index:
        """`low` and `high` `[B, h, chunks, d]` of the keys; `chunk` int64 `[B, pages]`, each page's chunk."""
        if "received" not in state:
            raise DcacheError("SkewedChunks reads the last queries: give its policy a QueryWindow observer")
        pages = self.pages(valid, state["received"])
        count = -(-keys.shape[2] // self.page)
        chunk = torch.arange(count, device=keys.device) // pages[:, None]
        bounds = PageBounds(self.page).index(keys, valid, state)
        # A page without a token has no bound.
        there = torch.arange(count, device=keys.device) * self.page < valid.sum(-1, keepdim=True)
        shape = (*keys.shape[:2], int(chunk.max()) + 1, keys.shape[3])
        place = chunk[:, None, :, None].expand_as(bounds["low"])
        merged = {}
        for name, how, nothing in (("low", "amin", float("inf")), ("high", "amax", float("-inf"))):
            filled = bounds[name].masked_fill(~there[..., None], nothing)
            wide = filled.new_full(shape, nothing).scatter_reduce_(2, place, filled, how)
            merged[name] = wide.masked_fill(wide.isinf(), 0.0)
        return {**merged, "chunk": chunk}

    def pages(self, valid: torch.Tensor, received: torch.Tensor) -> torch.Tensor:
        """int64 `[B]`, pages of a chunk: 1, 2, 4 and so on, by the share of tokens in the desert."""
        tokens = valid.sum((1, 2))
        even = received.masked_fill(~valid, 0.0).sum((1, 2)) / tokens.clamp_min(1)
        empty = (valid & (received < self.desert * even[:, None, None])).sum((1, 2)) / tokens.clamp_min(1)
        return 2 ** (empty * self.sizes).floor().long().clamp_max(self.sizes - 1)

    def products(self, query: torch.Tensor, index: Index) -> torch.Tensor:
        """The bound of each page's chunk."""
        bounds = PageBounds(self.page).products(query, index)
        chunk = index["chunk"][:, None, None].expand(-1, *bounds.shape[1:3], -1)
        return bounds.gather(-1, chunk)
