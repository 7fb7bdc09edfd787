"""Keys and queries as if all tokens were equally far from the query, for selectors that look at them so."""

from __future__ import annotations

import torch

from dcache.lm_kv.layers.shared import Shared
from dcache.lm_kv.scoring.observers import State


def keys_at_start(shared: Shared, layer: int, keys: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Keys `[B, h, n, d]` turned back by their places `[B, h, n]` among a row's true tokens."""
    flat = shared.turn(layer, keys.flatten(0, 1)[:, None], -places.flatten(0, 1).long(), "shift")
    return flat[:, 0].unflatten(0, keys.shape[:2])


def queries_at(
    shared: Shared, layer: int, query: torch.Tensor, places: torch.Tensor, distance: int
) -> torch.Tensor:
    """Queries `[B, H, S, d]` turned from their places `[B, S]` to a distance from the start."""
    return shared.turn(layer, query, distance - places.long(), "shift")


def state_at(shared: Shared, layer: int, state: State, distance: int) -> State:
    """A `QueryWindow`'s state with its queries at this distance; others as they are."""
    if "query" not in state:
        return state
    return {**state, "query": queries_at(shared, layer, state["query"], state["position"], distance)}
