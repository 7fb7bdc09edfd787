"""Keys and values that attention reads where they lie: dense columns, or runs of unequal length."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch


class Part(Protocol):
    """Keys and values of some columns."""

    @property
    def columns(self) -> int:
        """Number of columns in the padded form."""

    def products(self, query: torch.Tensor) -> torch.Tensor:
        """`[B, h, G*S, d]` -> new tensor of dot products with every key, `[B, h, G*S, columns]`."""

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `[B, h, G*S, columns]` with biases added and -inf at columns without a token, in place."""

    def combine(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights `[B, h, G*S, columns]` -> weighted sums of values `[B, h, G*S, d_v]`."""


@dataclass(frozen=True)
class DensePart:
    """Keys `[B, h, n, d]`, values `[B, h, n, d_v]`; bool `[B, 1 or h, n]` where columns may hold no token."""

    keys: torch.Tensor
    values: torch.Tensor
    valid: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    @property
    def columns(self) -> int:
        """Number of columns."""
        return self.keys.shape[2]

    def products(self, query: torch.Tensor) -> torch.Tensor:
        """Dot products of all queries with all keys."""
        return query @ _as(self.keys, query).mT

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        """Bias added; -inf at pads."""
        if self.bias is not None:
            logits += self.bias[:, :, None]
        if self.valid is not None:
            logits.masked_fill_(~self.valid[:, :, None], float("-inf"))
        return logits

    def combine(self, weights: torch.Tensor) -> torch.Tensor:
        """Weighted sums of values."""
        return weights @ _as(self.values, weights)


@dataclass(frozen=True)
class RaggedPart:
    """Runs of unequal length: flat keys `[N, d]`, values `[N, d_v]`, bias `[B, h, width]` or None."""

    keys: torch.Tensor
    values: torch.Tensor
    lengths: torch.Tensor
    sizes: list[int]
    bias: torch.Tensor | None = None

    @cached_property
    def columns(self) -> int:
        """Tokens in the longest run."""
        return max(self.sizes)

    @cached_property
    def unused(self) -> torch.Tensor:
        """Bool `[B, h, 1, columns]`: which columns of the padded form hold no token."""
        columns = torch.arange(self.columns, device=self.lengths.device)
        return (columns >= self.lengths[..., None])[:, :, None]

    @cached_property
    def runs(self) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
        """Size, keys `[d, n]` and values `[n, d_v]` of each run, as views."""
        keys, values = self.keys.split(self.sizes), self.values.split(self.sizes)
        return [(n, k.t(), v) for n, k, v in zip(self.sizes, keys, values, strict=True)]

    def products(self, query: torch.Tensor) -> torch.Tensor:
        """Dot products, run by run; 0 in unused columns."""
        out = query.new_zeros(*query.shape[:3], self.columns)
        places = zip(out.flatten(0, 1).unbind(), query.flatten(0, 1).unbind(), self.runs, strict=True)
        # Each product is written where it belongs: a copy would cost as much as the product of a short run.
        for place, queries, (size, keys, _) in places:
            torch.mm(queries, _as(keys, query), out=place[:, :size])
        return out

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        """Bias added; -inf in unused columns."""
        if self.bias is not None:
            logits += self.bias[:, :, None]
        return logits.masked_fill_(self.unused, float("-inf"))

    def combine(self, weights: torch.Tensor) -> torch.Tensor:
        """Weighted sums of values, run by run."""
        out = weights.new_empty(*weights.shape[:3], self.values.shape[-1])
        places = zip(out.flatten(0, 1).unbind(), weights.flatten(0, 1).unbind(), self.runs, strict=True)
        for place, shares, (size, _, values) in places:
            torch.mm(shares[:, :size], _as(values, weights), out=place)
        return out


def _as(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    # `to` costs a call into torch for every run, though most need none.
    return tensor if tensor.dtype == like.dtype else tensor.to(like.dtype)
