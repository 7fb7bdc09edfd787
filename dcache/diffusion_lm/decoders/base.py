"""`Proposal`: the sampled tokens of one step; `Decoder`: a rule that commits some of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Proposal:
    """Candidates of one step.

    Attributes:
        ids: int64 `[B, T]`, before the step.
        candidates: bool `[B, T]`, masked positions that may be decoded and were computed.
        quota: int64 `[B]`, tokens that the fixed schedule decodes.
        order: float64 `[B, T]` in (0, 1), random and the same at every step.
        tokens: int64 `[B, T]`, sampled tokens; None before the forward.
        confidence: float32 `[B, T]`, probabilities of the tokens; None before the forward.
        entropy: float32 `[B, T]` of the predictions in nats; None before the forward.
    """

    ids: torch.Tensor
    candidates: torch.Tensor
    quota: torch.Tensor
    order: torch.Tensor
    tokens: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    entropy: torch.Tensor | None = None

    def tokens_or(self, others: torch.Tensor) -> torch.Tensor:
        """The sampled tokens, or others before the forward."""
        return others if self.tokens is None else self.tokens


@dataclass(frozen=True)
class Decoder:
    """A rule.

    Attributes:
        name: what `generate` calls it.
        pick: proposal -> bool `[B, T]`, candidates to commit; at least one of each row that has any.
        ahead: it reads neither confidence nor entropy, so it is known before the forward what it picks.
        entropy: it reads entropy.
        guide: the model that it asks; None for most.
    """

    name: str
    pick: Callable[[Proposal], torch.Tensor]
    ahead: bool = False
    entropy: bool = False
    guide: nn.Module | None = None


def ranks(score: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Rank of each candidate by falling score, 0 first, ties to the left; others come behind."""
    score = score.masked_fill(~candidates, -torch.inf)
    return score.argsort(dim=1, descending=True, stable=True).argsort(1)
