"""One query for a call of several tokens: by it the call chooses what it reads of the tokens before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


class Question(Protocol):
    """Makes one query of a call's queries."""

    def of(self, query: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Queries `[B, H, S, d]` of which `valid`, bool `[B, S]`, count -> `[B, H, 1, d]` in their dtype."""


@dataclass(frozen=True)
class MeanQuery:
    """The mean of the queries."""

    def of(self, query: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Sum over the true queries, divided by their number."""
        return _mean(query, valid[:, None, :, None].to(query.dtype))


@dataclass(frozen=True)
class ActivationBias:
    """ActQKV: queries weigh the more the less they are like the mean of the call.

    A query's bias is the mean over channels of (q - mean)^2 / variance, mean and variance over the call's
    queries of a head. Where all are alike each weighs the same.
    """

    def of(self, query: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Sum of bias times query, divided by the sum of the biases."""
        counted = valid[:, None, :, None].to(query.dtype)
        squared = (query - _mean(query, counted)) ** 2
        bias = (squared / _mean(squared, counted).clamp_min(1e-12)).mean(-1, keepdim=True) * counted
        alike = bias.sum(2, keepdim=True) <= 0
        return _mean(query, torch.where(alike, counted, bias))


def _mean(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted means `[B, H, 1, d]` of states `[B, H, S, d]`; 0 where nothing weighs."""
    total = (states * weights).sum(2, keepdim=True)
    return total / weights.sum(2, keepdim=True).clamp_min(torch.finfo(states.dtype).tiny)
