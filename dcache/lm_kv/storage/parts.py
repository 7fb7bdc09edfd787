"""Keys and values that attention reads where they lie: dense columns, or runs of unequal length."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from dcache.kernels import flash
from dcache.kernels.ragged_attention import Runs, fused_runs, ragged_attention


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

    def attend(
        self, query: torch.Tensor, scale: float, softcap: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of queries `[B, h, G*S, d]` on this part alone.

        Returns:
            Outputs `[B, h, G*S, d_v]` and log-sum-exps of the logits `[B, h, G*S]`, at least float32; 0 and
            -inf where a query sees nothing. There must be a column.
        """


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

    def attend(
        self, query: torch.Tensor, scale: float, softcap: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Torch's fused attention on CPUs, else every row and head is a run."""
        added = self._added()
        if softcap is None and flash.possible(query, self.keys, self.values):
            if added is not None and query.dtype == torch.float64:
                added = added.double()
            return flash.flash(query, self.keys, self.values, scale, added)
        rows, heads, columns, _ = self.keys.shape
        out, lse = ragged_attention(
            query.flatten(0, 1),
            self.keys.flatten(0, 2),
            self.values.flatten(0, 2),
            Runs.of([columns] * (rows * heads), query.device),
            scale,
            softcap=softcap,
            bias=None if added is None else added.expand(-1, heads, -1, -1).flatten(),
        )
        return out.unflatten(0, (rows, heads)), lse.unflatten(0, (rows, heads))

    def _added(self) -> torch.Tensor | None:
        """float32 `[B, 1 or h, 1, n]`, what is added to logits: biases, and -inf at pads."""
        if self.valid is None:
            return None if self.bias is None else self.bias[:, :, None]
        if self.bias is None:
            # In float32, and not in torch's default dtype.
            nothing = torch.zeros(self.valid.shape, dtype=torch.float32, device=self.valid.device)
            return nothing.masked_fill_(~self.valid, float("-inf"))[:, :, None]
        return self.bias.masked_fill(~self.valid, float("-inf"))[:, :, None]


class RunsPart:
    """Base of parts that are runs of unequal length.

    Attributes:
        lengths: int64 `[B, h]`.
        sizes: the same on the host.
        bias: float32 `[B, h, columns]` or None.
    """

    lengths: torch.Tensor
    sizes: list[int]
    bias: torch.Tensor | None

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
    def runs(self) -> Runs:
        """The lengths."""
        return Runs(self.lengths.flatten())

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        """Bias added; -inf in unused columns."""
        if self.bias is not None:
            logits += self.bias[:, :, None]
        return logits.masked_fill_(self.unused, float("-inf"))

    @cached_property
    def flat_bias(self) -> torch.Tensor | None:
        """float32 `[N]`, each token's bias; None where there is none."""
        return None if self.bias is None else self.bias[~self.unused[:, :, 0]]


@dataclass(frozen=True)
class RaggedPart(RunsPart):
    """Runs of unequal length: flat keys `[N, d]`, values `[N, d_v]`, bias `[B, h, width]` or None."""

    keys: torch.Tensor
    values: torch.Tensor
    lengths: torch.Tensor
    sizes: list[int]
    bias: torch.Tensor | None = None

    @cached_property
    def views(self) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
        """Size, keys `[d, n]` and values `[n, d_v]` of each run, as views."""
        keys, values = self.keys.split(self.sizes), self.values.split(self.sizes)
        return [(n, k.t(), v) for n, k, v in zip(self.sizes, keys, values, strict=True)]

    def products(self, query: torch.Tensor) -> torch.Tensor:
        """Dot products, run by run; 0 in unused columns."""
        out = query.new_zeros(*query.shape[:3], self.columns)
        places = zip(out.flatten(0, 1).unbind(), query.flatten(0, 1).unbind(), self.views, strict=True)
        # Each product is written where it belongs: a copy would cost as much as the product of a short run.
        for place, queries, (size, keys, _) in places:
            torch.mm(queries, _as(keys, query), out=place[:, :size])
        return out

    def combine(self, weights: torch.Tensor) -> torch.Tensor:
        """Weighted sums of values, run by run."""
        out = weights.new_empty(*weights.shape[:3], self.values.shape[-1])
        places = zip(out.flatten(0, 1).unbind(), weights.flatten(0, 1).unbind(), self.views, strict=True)
        for place, shares, (size, _, values) in places:
            torch.mm(shares[:, :size], _as(values, weights), out=place)
        return out

    def attend(
        self, query: torch.Tensor, scale: float, softcap: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run by run, where they lie."""
        flat = query.flatten(0, 1)
        if softcap is None and self.bias is None and flash.possible(flat, self.keys, self.values):
            out, lse = fused_runs(flat, self.keys, self.values, self.runs, scale)
        else:
            out, lse = ragged_attention(
                flat, self.keys, self.values, self.runs, scale, softcap=softcap, bias=self.flat_bias
            )
        return out.view(*query.shape[:3], -1), lse.view(query.shape[:3])


def _as(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    # `to` costs a call into torch for every run, though most need none.
    return tensor if tensor.dtype == like.dtype else tensor.to(like.dtype)
