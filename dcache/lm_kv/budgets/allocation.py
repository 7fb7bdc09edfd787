"""How a budget is divided over layers and KV heads; every function keeps the highest scores of its share.

Scores are float32 `[rows, heads, M]`, -inf at slots without a token and +inf at protected ones. Results are
bool of the same shape. Ties keep the lowest position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch

ALLOCATIONS = ("uniform", "heads", "layers", "global", "preference", "coverage")
# Rounds of a bisection in float64.
ROUNDS = 120
NOTHING = float("-inf")
ALWAYS = float("inf")


def keep_uniform(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Each head keeps its row's `tokens` `[rows]`."""
    return (_ranks(scores) < tokens[:, None, None]) & (scores > NOTHING)


def keep_heads(scores: torch.Tensor, tokens: torch.Tensor, floor: float) -> torch.Tensor:
    """AdaKV: the heads of a layer share `heads * tokens`; each keeps at least `floor * tokens`."""
    raised = _with_floor(scores, tokens, floor).flatten(1)
    kept = _ranks(raised) < (tokens * scores.shape[1])[:, None]
    return kept.view(scores.shape) & (scores > NOTHING)


def keep_global(scores: Sequence[torch.Tensor], tokens: torch.Tensor, floor: float) -> list[torch.Tensor]:
    """All heads of all these layers share `layers * heads * tokens`, each with its floor."""
    raised = [_with_floor(layer, tokens, floor).flatten(1) for layer in scores]
    total = tokens * sum(layer.shape[1] for layer in scores)
    kept = _ranks(torch.cat(raised, 1)) < total[:, None]
    pieces = kept.split([layer.shape[1] for layer in raised], 1)
    pairs = zip(scores, pieces, strict=True)
    return [piece.reshape(layer.shape) & (layer > NOTHING) for layer, piece in pairs]


def layer_budgets(tokens: int, layers: int, least: int, most: int) -> list[int]:
    """PyramidKV: tokens per head of each layer, falling with depth; they sum to `tokens * layers`.

    Args:
        tokens: the mean over the layers.
        layers: how many share it.
        least: what the last layer keeps at least; at most `tokens`.
        most: what a layer can keep, the number of tokens there are.

    >>> layer_budgets(10, 3, 2, 100)
    [18, 10, 2]
    >>> layer_budgets(10, 3, 2, 12)
    [12, 10, 8]
    """
    if layers == 1:
        return [tokens]
    # The slope is set by the last layer's least and by what the first can hold, whichever is flatter.
    top = min(2 * tokens - least, most)
    slope = 2 * (top - tokens) / (layers - 1)
    sums = [0.0, *accumulate(top - slope * index for index in range(layers))]
    # Cumulative sums are rounded, not the budgets, so that they add up.
    return [end - start for start, end in pairwise(round(total) for total in sums)]


def preference_budgets(
    tokens: int, preferences: Sequence[float], least: int, most: Sequence[int]
) -> list[int]:
    """CAKE: tokens per head of each layer, in proportion to the layers' preferences, within bounds.

    They sum to `tokens` times the number of layers, or to what the layers hold where that is less.

    Args:
        tokens: the mean over the layers.
        preferences: of each layer, at least 0.
        least: what a layer keeps at least, where it holds so much; at most `tokens`.
        most: what each layer holds.

    >>> preference_budgets(10, [1.0, 2.0, 3.0], 2, [100, 100, 100])
    [5, 10, 15]
    >>> preference_budgets(10, [1.0, 2.0, 3.0], 2, [100, 100, 12])
    [6, 12, 12]
    """
    total = min(tokens * len(preferences), sum(most))
    # Preferences of 0 share what bounds leave.
    weights = [preference + 1e-12 * (max(preferences) or 1.0) for preference in preferences]

    def shares(factor: float) -> list[float]:
        pairs = zip(weights, most, strict=True)
        return [min(max(factor * weight, float(least)), float(limit)) for weight, limit in pairs]

    # The sum of the shares grows with the factor, up to what the layers hold.
    low, high = 0.0, max(most, default=0) / min(weights) + 1.0
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(shares(middle)) < total else (low, middle)
    sums = [0.0, *accumulate(shares(high))]
    # Cumulative sums are rounded, so that whole bounds stay and budgets add up.
    whole = [math.floor(value + 0.5) for value in sums[:-1]]
    return [end - start for start, end in pairwise([*whole, total])]


def _with_floor(scores: torch.Tensor, tokens: torch.Tensor, floor: float) -> torch.Tensor:
    """Scores in which each head's best `floor * tokens` are protected."""
    guaranteed = (tokens * floor + 1e-9).floor()[:, None, None]
    safe = (_ranks(scores) < guaranteed) & (scores > NOTHING)
    return scores.masked_fill(safe, ALWAYS)


def _ranks(scores: torch.Tensor) -> torch.Tensor:
    """The place of every score in its last dimension, 0 for the highest."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1)
