"""Read-only forwards: a row's own text is read again, and nothing of it is stored."""

from __future__ import annotations

import copy
from typing import Any

import torch

from dcache.lm_kv.layers.shared import Shared

# Columns of one read-only forward.
CHUNK = 2048


def received_attention(
    decoder: torch.nn.Module,
    cache: Any,
    shared: Shared,
    text: torch.Tensor,
    valid: torch.Tensor,
    history: torch.Tensor,
) -> dict[int, torch.Tensor]:
    """The largest weight that each stored token gets while every row's text is read again behind the cache.

    Args:
        decoder: the model that the cache is of.
        cache: the cache; it is as before when this returns, also after an exception.
        shared: its state.
        text: ids int64 `[B, T]`.
        valid: bool `[B, T]`; pads are left out, wherever they lie.
        history: bool `[B, columns]`, which of the cache's columns are true tokens.

    Returns:
        Layer index -> float32 `[B, h, M]` in the order of the layer's stored tokens.
    """
    received: dict[int, torch.Tensor] = {}

    def read(layer: int, columns: torch.Tensor) -> None:
        received[layer] = torch.maximum(received[layer], columns) if layer in received else columns

    # Pads move to the end, so that a row is cut into the same chunks as it would be alone.
    order = (~valid).int().argsort(dim=1, stable=True)[:, : int(valid.sum(1).max())]
    text, valid = text.gather(1, order), valid.gather(1, order)
    start = history.sum(1, keepdim=True)
    shared.reader = read
    try:
        for first in range(0, text.shape[1], CHUNK):
            columns = slice(first, first + CHUNK)
            positions = start + torch.arange(first, min(first + CHUNK, text.shape[1]), device=text.device)
            _read(decoder, cache, text[:, columns], torch.cat([history, valid[:, columns]], 1), positions)
    finally:
        shared.reader = None
    return received


@torch.no_grad()
def _read(
    decoder: torch.nn.Module, cache: Any, text: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor
) -> None:
    """One forward; the library's own layers (sliding, linear) are put back as they were."""
    layers = list(cache.layers)
    compressed = set(cache.compressed_layers)
    cache.layers = [layer if i in compressed else copy.deepcopy(layer) for i, layer in enumerate(layers)]
    try:
        decoder(
            input_ids=text,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
    finally:
        cache.layers = layers
