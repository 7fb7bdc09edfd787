"""Scores from the last queries' attention beside its mean: how many ignored a token, how it varies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from dcache.lm_kv.scoring.observers import State
from dcache.lm_kv.scoring.scorers import Context, attention_of, smoothed, visible_from, window_attention
from dcache.lm_kv.storage.stored import Stored

# Queries whose weights are held at once: a long history's weights would outweigh the cache.
BLOCK = 32


@dataclass(frozen=True)
class Pivotal:
    """Scissorhands: tokens that few of the last queries ignored.

    A query ignores a token that it gives less than 1/t, where it sees t tokens. The same number of times,
    the mean attention decides.
    """

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """-#{q, heads of the group: A[q, k] < 1/t}, plus the mean attention, which is below 1; float64."""
        # Beside a count of some hundreds float32 has no digits left for the attention.
        ignored = torch.zeros(stored.valid.shape, dtype=torch.float64, device=stored.keys.device)
        received, queries = torch.zeros_like(ignored), context.state["valid"].sum(1)
        for block in query_blocks(context.state):
            weights, counted = attention_of(block, stored, context.logits)
            visible = visible_from(block["position"], stored) & counted[:, None, :, None]
            share = visible.sum(-1, keepdim=True).clamp_min(1).float().reciprocal()
            low = (weights < share[:, :, None]) & visible[:, :, None]
            ignored += low.sum((2, 3))
            received += weights.mean(2).sum(2)
        return received / (queries + 1)[:, None, None] - ignored


@dataclass(frozen=True)
class MeanAndVariance:
    """CAKE: the mean attention of the last queries and how much it varies among them, smoothed.

    Args:
        gamma: weight of the variance.
        pool: width of the moving average, odd; 1 for none.
    """

    gamma: float = 200.0
    pool: int = 1
    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """mean_q A[q, k] + gamma var_q A[q, k], the mean over the group's heads."""
        mean, variance = window_moments(stored, context)
        return smoothed((mean + self.gamma * variance).mean(2), self.pool, stored, context)


def window_moments(stored: Stored, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and unbiased variance over the last queries of their attention, float32 `[B, h, G, M]`."""
    weights, counted = window_attention(stored, context)
    queries = counted.sum(1)[:, None, None, None]
    mean = weights.sum(3) / queries.clamp_min(1)
    deviation = (weights - mean[:, :, :, None]) * counted[:, None, None, :, None]
    return mean, deviation.square().sum(3) / (queries - 1).clamp_min(1)


def query_blocks(state: State, size: int = BLOCK) -> Iterator[State]:
    """What a `QueryWindow` kept, so many queries at a time."""
    for start in range(0, state["query"].shape[2], size):
        some = slice(start, start + size)
        yield {
            "query": state["query"][:, :, some],
            "position": state["position"][:, some],
            "valid": state["valid"][:, some],
        }
