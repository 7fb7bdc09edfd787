"""How keys and values of a packed segment are stored; a low-bit codec implements the same protocol."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Codec(Protocol):
    """Encodes the packed keys and values of one segment.

    Runs (one for each row and KV head) lie one after the other in dimension 0; `lengths` has their sizes.
    """

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor) -> Any:
        """Encoded keys `[N, d]`; the result shares no storage with `keys`."""

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> Any:
        """Encoded values `[N, d]`; the result shares no storage with `values`."""

    def decode(self, encoded: Any) -> torch.Tensor:
        """The tensor `[N, d]` in the model's dtype."""

    def take(self, encoded: Any, rows: torch.Tensor) -> Any:
        """The encoded tokens at these indices of dimension 0."""

    def storages(self, encoded: Any) -> list[torch.Tensor]:
        """Every tensor that is held, for counting bytes."""


class Plain:
    """Keys and values as they came, in the model's dtype."""

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The keys, in a storage without spare room."""
        return _compact(keys)

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The values, in a storage without spare room."""
        return _compact(values)

    def decode(self, encoded: torch.Tensor) -> torch.Tensor:
        """The same tensor."""
        return encoded

    def take(self, encoded: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Rows of the tensor."""
        return encoded[rows]

    def storages(self, encoded: torch.Tensor) -> list[torch.Tensor]:
        """The tensor alone."""
        return [encoded]


def _compact(flat: torch.Tensor) -> torch.Tensor:
    # A view keeps its whole storage alive: fused projections make V a view of three or four times its bytes.
    small = flat.untyped_storage().nbytes() == flat.numel() * flat.element_size()
    return flat if small and flat.is_contiguous() else flat.clone(memory_format=torch.contiguous_format)
