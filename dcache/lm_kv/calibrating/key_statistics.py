"""Second moments of a text's keys before rotation, and mean sizes of the channels of keys and queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.cache import KVCache
from dcache.lm_kv.layers.layer import LayerCache
from dcache.lm_kv.model.rotary import Rotary, find_rotary
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.scorers import Recency

# Queries whose sizes are taken.
QUERIES = 64


@dataclass(frozen=True)
class KeyStatistics:
    """Of each layer with full attention, by index.

    Attributes:
        moments: float64 `[h, d, d]`, the mean of k k^T over a text's keys before rotation; none where the
            model's rotation is unknown.
        importance: float64 `[h, d]`, mean |q_j| mean |k_j|, the mean over the group's query heads.
        left_out: why there are no moments, "" where there are.
    """

    moments: dict[int, torch.Tensor]
    importance: dict[int, torch.Tensor]
    left_out: str = ""


@torch.no_grad()
def key_statistics(model: Any, text: torch.Tensor) -> KeyStatistics:
    """Read a text, ids int64 `[1, T]`, and measure its keys and its last queries."""
    policy = Policy(
        "key_statistics", scorer=Recency(), observer=QueryWindow(QUERIES), budget=1.0, sinks=0, window=0
    )
    cache = KVCache(model, policy)
    rotary, left_out = _rotary(cache)
    with cache.hold():
        cache.decoder(input_ids=text, past_key_values=cache)
    layers = [cache.layers[i] for i in cache.compressed_layers]
    importance = {layer.index: _importance(layer) for layer in layers}
    moments = {} if rotary is None else {layer.index: _moments(layer, rotary) for layer in layers}
    return KeyStatistics(moments, importance, left_out)


def basis_of(moments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions `[h, d, d]`, one a row, the strongest first, and the mean square along each, `[h, d]`."""
    values, vectors = torch.linalg.eigh(moments)
    return vectors.mT.flip(1), values.flip(1).clamp_min(0.0)


def _rotary(cache: KVCache) -> tuple[Rotary | None, str]:
    try:
        return find_rotary(cache.decoder, cache.compressed_layers), ""
    except DcacheError as error:
        return None, str(error)


def _moments(layer: LayerCache, rotary: Rotary) -> torch.Tensor:
    keys, positions = _keys(layer)
    turned = rotary.turn(layer.index, keys, positions, "back").double()
    return (turned.mT @ turned)[0] / turned.shape[2]


def _importance(layer: LayerCache) -> torch.Tensor:
    keys, _ = _keys(layer)
    queries = layer.state["query"].double().abs().mean(2)
    return keys.double().abs().mean(2)[0] * queries.unflatten(1, (keys.shape[1], -1)).mean(2)[0]


def _keys(layer: LayerCache) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 `[1, h, T, d]` and positions `[1, T]`."""
    if layer.store is None:
        raise DcacheError(f"layer {layer.index} stored nothing of the text")
    return layer.store.tail.keys.float(), layer.store.tail.positions.long()
