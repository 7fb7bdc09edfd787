"""Keys and values of a whole text, of all layers of a model."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from dcache.lm_kv.model.attention import Logits


@dataclass
class States:
    """Keys and values of one text of T tokens, by index of the layer; its tokens stand at 0, 1, ..., T - 1.

    Attributes:
        keys: `[1, h, T, d]`, turned to their positions.
        values: `[1, h, T, d_v]`.
        logits: how each layer makes logits; known where a token was computed.
    """

    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)
    logits: dict[int, Logits] = field(default_factory=dict)

    def part(self, start: int, stop: int) -> States:
        """A copy of the tokens from `start` to `stop - 1`; their keys stay turned as they are."""
        keys = {layer: x[:, :, start:stop].clone() for layer, x in self.keys.items()}
        values = {layer: x[:, :, start:stop].clone() for layer, x in self.values.items()}
        return States(keys, values, dict(self.logits))

    def put(self, layer: int, tokens: torch.Tensor | slice, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write a layer's keys `[1, h, n, d]` and values `[1, h, n, d_v]` of these tokens."""
        self.keys[layer][:, :, tokens] = keys
        self.values[layer][:, :, tokens] = values

    def reserve(self, layer: int, length: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Room for `length` tokens of a layer, where it has none yet, of the kind of these states."""
        if layer not in self.keys:
            self.keys[layer] = keys.new_zeros(1, keys.shape[1], length, keys.shape[3])
            self.values[layer] = values.new_zeros(1, values.shape[1], length, values.shape[3])
