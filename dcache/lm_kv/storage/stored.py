"""All stored tokens of a layer in one padded form, which scorers and allocations read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from dcache.lm_kv.storage.segment import Segment
from dcache.lm_kv.storage.tail import Tail


@dataclass(frozen=True)
class Stored:
    """Tokens of one layer, padded to `M` slots for each row and KV head, in ascending order of position.

    Attributes:
        keys: `[rows, heads, M, d]` in the model's dtype.
        values: `[rows, heads, M, d_v]`.
        positions: int64 `[rows, heads, M]`, each token's index among its row's true tokens.
        valid: bool `[rows, heads, M]`; False at pads and in unused slots.
        bias: float32 `[rows, heads, M]` or None.
        score: float32 `[rows, heads, M, ...]`, an observer's statistic of each token, or None.
        newest: bool `[rows, heads, M]`, the row's window, into which nothing is merged; None for no token.
        rope: int64 `[rows, heads, M]`, the positions by which the model turned the keys; None for
            `positions`.
    """

    keys: torch.Tensor
    values: torch.Tensor
    positions: torch.Tensor
    valid: torch.Tensor
    bias: torch.Tensor | None = None
    score: torch.Tensor | None = None
    newest: torch.Tensor | None = None
    rope: torch.Tensor | None = None

    def first(self, slots: int) -> Stored:
        """The first slots of every run; the newest columns of the tail are the last ones."""
        return self.each(lambda part: part[:, :, :slots])

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Stored:
        """The same change of every tensor; all have the first three dimensions in common."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {n: None if part is None else change(part) for n, part in parts.items()}
        return Stored(**changed)

    def takers(self, keep: torch.Tensor) -> torch.Tensor:
        """Of the tokens in `keep`, bool `[rows, heads, M]`, those into which others may be merged."""
        return keep if self.newest is None else keep & ~self.newest


def gather(segments: Sequence[Segment], tail: Tail, offset: torch.Tensor | None = None) -> Stored:
    """Segments and tail side by side; the columns are in the order of attention's.

    Args:
        segments: of a layer.
        tail: the layer's.
        offset: int64 `[rows]`, the model's position of a token minus its index among the row's true ones;
            None for 0.
    """
    heads = tail.keys.shape[1]
    columns: list[Stored] = []
    for segment in segments:
        keys, values = segment.decoded()
        columns.append(
            Stored(
                segment.pad(keys),
                segment.pad(values),
                segment.pad(segment.places()).long(),
                segment.valid,
                None if segment.bias is None else segment.pad(segment.bias),
                None if segment.score is None else segment.pad(segment.score),
            )
        )
    positions = tail.positions.long()[:, None].expand(-1, heads, -1)
    valid = tail.valid[:, None].expand(-1, heads, -1)
    columns.append(Stored(tail.keys, tail.values, positions, valid, None, tail.score))
    stored = columns[0] if len(columns) == 1 else _joined(columns)
    return stored if offset is None else replace(stored, rope=stored.positions + offset[:, None, None])


def _joined(columns: list[Stored]) -> Stored:
    return Stored(
        torch.cat([part.keys for part in columns], 2),
        torch.cat([part.values for part in columns], 2),
        torch.cat([part.positions for part in columns], 2),
        torch.cat([part.valid for part in columns], 2),
        _optional([part.bias for part in columns], columns),
        _optional([part.score for part in columns], columns),
    )


def _optional(tensors: list[torch.Tensor | None], columns: list[Stored]) -> torch.Tensor | None:
    """Joined, with zeros where a part has none; None where no part has any."""
    if all(tensor is None for tensor in tensors):
        return None
    zeros = (torch.zeros(part.valid.shape, dtype=torch.float32, device=part.valid.device) for part in columns)
    return torch.cat([z if t is None else t for t, z in zip(tensors, zeros, strict=True)], 2)
