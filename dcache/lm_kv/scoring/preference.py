"""How much of a budget each layer wants, from what its own attention looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

import torch

from dcache.lm_kv.scoring.questions import Question
from dcache.lm_kv.scoring.scorers import Context, ReceivedSum, older_than_window
from dcache.lm_kv.scoring.window_scorers import window_moments
from dcache.lm_kv.storage.stored import Stored


class Preference(Protocol):
    """A layer's claim on the budget that all layers share."""

    def of(self, stored: Stored, context: Context) -> torch.Tensor:
        """Float `[rows]`, what `shares` is made of."""

    def shares(self, layers: Sequence[float]) -> list[float]:
        """What each layer wants, at least 0, from what `of` said of all; tokens are in proportion."""


@dataclass(frozen=True)
class DispersionAndShift:
    """CAKE: layers whose attention is spread out and moves with the queries want more.

    It reads the last queries, so the policy's observer must be `QueryWindow`. Keys of the window itself do
    not count: the causal mask alone would make them vary.

    Args:
        tau1: the larger, the less the entropy counts; above 0.
        tau2: the same for the variance.
    """

    tau1: float = 1.0
    tau2: float = 1.0

    def of(self, stored: Stored, context: Context) -> torch.Tensor:
        """H^(1/tau1) V^(1/tau2); H, the entropy of the mean attention, and V, its variance, of all heads."""
        mean, variance = (moment.double() for moment in window_moments(stored, context))
        older = older_than_window(stored, context)[:, :, None]
        # xlogy is 0 where no attention is.
        entropy = -torch.xlogy(mean, mean).masked_fill(~older, 0.0).sum((1, 2, 3))
        shift = variance.masked_fill(~older, 0.0).sum((1, 2, 3))
        return entropy.clamp_min(0.0) ** (1 / self.tau1) * shift ** (1 / self.tau2)

    def shares(self, layers: Sequence[float]) -> list[float]:
        """The same."""
        return list(layers)


@dataclass(frozen=True)
class InformationDensity:
    """ActQKV: layers in which the attention of the last queries' question is spread out get more.

    It reads the last queries, so the policy's observer must be `QueryWindow`.

    Args:
        question: makes one query of them.
    """

    question: Question

    def of(self, stored: Stored, context: Context) -> torch.Tensor:
        """The entropy of the question's attention to all stored tokens, the mean over heads."""
        state = context.state
        asked = self.question.of(state["query"].float(), state["valid"])[:, :, 0]
        grouped = asked.unflatten(1, (stored.keys.shape[1], -1))
        logits = context.logits.of(grouped @ stored.keys.float().mT)
        weights = logits.masked_fill(~stored.valid[:, :, None], float("-inf")).softmax(-1).double()
        # xlogy is 0 where no attention is.
        return -torch.xlogy(weights, weights).sum(-1).mean((1, 2))

    def shares(self, layers: Sequence[float]) -> list[float]:
        """The same."""
        return list(layers)


@dataclass(frozen=True)
class EvenLayers:
    """D2O: layers whose attention is spread evenly over tokens get more than those where few tokens have it.

    It reads running sums, so the policy's observer must be `ColumnSums`.

    Args:
        ratio: what a layer with less than the mean variance gets, of what others do; at least 1.
    """

    ratio: float

    def of(self, stored: Stored, context: Context) -> torch.Tensor:
        """The variance over tokens of the attention that they received, a mean of 1, the mean over heads."""
        received = ReceivedSum().score(stored, context).double() * stored.valid
        count = stored.valid.sum(-1).clamp_min(1)
        share = received * count[..., None] / received.sum(-1, keepdim=True).clamp_min(1e-12)
        return (((share - 1.0) ** 2) * stored.valid).sum(-1).div(count).mean(1)

    def shares(self, layers: Sequence[float]) -> list[float]:
        """`ratio` below the mean variance, else 1."""
        mean = fmean(layers)
        return [self.ratio if variance < mean else 1.0 for variance in layers]


@dataclass(frozen=True)
class GivenLayers:
    """CompressKV: layers by numbers that were measured of the model once, the same for all texts.

    Args:
        numbers: by index of the layer, at least 0; other layers have 0.
    """

    numbers: tuple[tuple[int, float], ...]

    def of(self, stored: Stored, context: Context) -> torch.Tensor:
        """The layer's number."""
        return torch.full_like(context.seen, dict(self.numbers).get(context.layer, 0.0), dtype=torch.float64)

    def shares(self, layers: Sequence[float]) -> list[float]:
        """The same."""
        return list(layers)
