"""`KVStore`: the last keys and values of every position, for each attention call of a forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dcache.diffusion_lm.selection import Selection
from dcache.util.bytes import bytes_of


@dataclass
class _Entry:
    """Keys and values of one attention call, token-major `[B, T, h * d]`, and the heads."""

    keys: torch.Tensor
    values: torch.Tensor
    heads: int


class KVStore:
    """Keys and values by the ordinal of the attention call.

    The ordinal, not the layer's index, because some layers call attention twice. Storage is allocated from
    the first keys seen, because heads and their size cannot be read from every config.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def write(
        self, call: int, keys: torch.Tensor, values: torch.Tensor, selection: Selection
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a call's fresh keys and values.

        Args:
            call: ordinal of the attention call.
            keys: `[B, h, K, d]`, after the rotation.
            values: `[B, h, K, d_v]`.
            selection: the rows they belong to; the first one of a call is full.

        Returns:
            Keys and values of all positions, `[B, h, T, d]`.
        """
        if selection.full:
            self._write_all(call, keys, values)
            # The very tensors of the plain pass, so that a full pass has its bits.
            return keys, values
        entry = self._entries[call]
        selection.put(entry.keys, _tokens(keys))
        selection.put(entry.values, _tokens(values))
        return _heads(entry.keys, entry.heads), _heads(entry.values, entry.heads)

    def exchange_values(
        self, call: int, values: torch.Tensor, selection: Selection
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store fresh values alone; returns those before and the new ones, both `[B, K, h * d]`."""
        stored, new = self._entries[call].values, _tokens(values)
        # A copy: in a full selection the rows are the storage itself.
        before = selection.take(stored).clone()
        selection.put(stored, new)
        return before, new

    def grow(self, width: int) -> None:
        """Make room for more positions; what is in it is not valid until it is written."""
        for entry in self._entries:
            B, T, _ = entry.keys.shape
            for name in ("keys", "values"):
                old = getattr(entry, name)
                new = old.new_zeros(B, width, old.shape[2])
                new[:, :T] = old
                setattr(entry, name, new)

    @property
    def bytes_held(self) -> int:
        """Bytes of all storage."""
        return bytes_of([tensor for entry in self._entries for tensor in (entry.keys, entry.values)])

    def _write_all(self, call: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        flat_keys, flat_values = _tokens(keys), _tokens(values)
        if call == len(self._entries):
            clones = flat_keys.clone(), flat_values.clone()
            self._entries.append(_Entry(clones[0], clones[1], keys.shape[1]))
            return
        entry = self._entries[call]
        entry.keys.copy_(flat_keys)
        entry.values.copy_(flat_values)


def _tokens(heads: torch.Tensor) -> torch.Tensor:
    """`[B, h, K, d]` -> `[B, K, h * d]`; without a copy where heads came from tokens."""
    return heads.transpose(1, 2).flatten(2)


def _heads(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """`[B, T, h * d]` -> a view `[B, h, T, d]`."""
    B, T, D = tokens.shape
    return tokens.view(B, T, heads, D // heads).transpose(1, 2)
