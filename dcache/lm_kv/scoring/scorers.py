"""How much each stored token matters to a KV head; the highest scores are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch.nn import functional as F

from dcache.errors import DcacheError
from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.scoring.by_position import layer_mean
from dcache.lm_kv.scoring.observers import State, symmetric
from dcache.lm_kv.scoring.window_columns import window_columns, window_mean
from dcache.lm_kv.storage.stored import Stored


@dataclass(frozen=True)
class Context:
    """The data that a scorer may read beside the stored tokens.

    Attributes:
        layer: index of the layer.
        state: what the policy's observer gathered.
        seen: int64 `[B]`, true tokens that each row has seen.
        logits: how the layer makes logits.
        mean_rotation: (start, count) -> `[d, d]`, the mean of the layer's rotations at these positions.
        received: float32 `[B, h, M]`, the largest weight that each stored token got from a read-only forward
            of the row's own text; None for scorers that need none.
        tokens: int64 `[B]`, tokens that a KV head keeps, the mean over heads and layers; None without a
            budget.
        layers: how many layers the model has.
        window: int64 `[B]`, newest tokens that are kept whatever their score; None without a budget.
    """

    layer: int
    state: State
    seen: torch.Tensor
    logits: Logits
    mean_rotation: Callable[[int, int], torch.Tensor]
    received: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    layers: int = 1
    window: torch.Tensor | None = None


class Scorer(Protocol):
    """Scores a layer's stored tokens."""

    @property
    def probes(self) -> bool:
        """Whether the context must have `received`."""

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """Float `[B, h, M]`, higher is kept; slots without a token may have any finite value.

        float64 is compared as such, for scores whose differences float32 would round away.
        """


@dataclass(frozen=True)
class Recency:
    """Newer is better: StreamingLLM's window."""

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """The position."""
        return stored.positions.float()


@dataclass(frozen=True)
class Chance:
    """A fixed random priority of each token at each layer and head: the baseline.

    It depends on the seed, the layer, the head and the token's position alone, so that a row gets the same in
    any batch, and later evictions choose among what earlier ones kept as if drawn at once.
    """

    seed: int = 0
    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """Uniform in [0, 1)."""
        heads = torch.arange(stored.keys.shape[1], device=stored.keys.device)[None, :, None]
        salt = (self.seed * 1_000_003 + context.layer) * 1_000_003
        return hashed((stored.positions + 1) * 0x9E3779B1 + (heads + salt) * 0x85EBCA77)


def hashed(value: torch.Tensor) -> torch.Tensor:
    """Numbers in [0, 1), float32, that look random and depend on int64 numbers alone."""
    # Two rounds of a multiply-and-shift hash on 32 bits; products stay below 2**63.
    for factor in (0x45D9F3B, 0x2C1B3C6D):
        value = value & 0xFFFFFFFF
        value = ((value >> 16) ^ value) * factor
    return ((value & 0xFFFFFFFF) >> 8).float() / 2**24


def ranks(scores: torch.Tensor) -> torch.Tensor:
    """The place of every score in its last dimension, 0 for the highest; of equal ones the first."""
    return scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


@dataclass(frozen=True)
class KeyDistance:
    """KeyDiff: keys unlike the mean direction of their head's keys."""

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """-cos(k_i, mean_j k_j / |k_j|)."""
        unit = F.normalize(stored.keys.float(), dim=-1) * stored.valid[..., None]
        mean = unit.sum(2, keepdim=True) / stored.valid.sum(2)[..., None, None].clamp_min(1)
        return -(unit * F.normalize(mean, dim=-1)).sum(-1)


@dataclass(frozen=True)
class WindowAttention:
    """SnapKV: the mean attention of the last W queries, smoothed along the positions.

    Args:
        pool: width of the moving average, odd; 1 for none. Keys of the window itself are left out of it.
        largest: whether the largest of the neighbours is taken instead of their mean.
    """

    pool: int = 1
    largest: bool = False
    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """Mean over the group's heads and the window's queries of A[q, k]."""
        score = window_mean(stored, context.state, context.logits)
        return smoothed(score, self.pool, stored, context, self.largest)


@dataclass(frozen=True)
class LastQueryAttention:
    """TOVA: the last query's attention, the mean over all heads that hold the token."""

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """Mean over heads of A[last, k]."""
        sums, _, _ = window_columns(stored, context.state, context.logits)
        return layer_mean(sums, stored)


@dataclass(frozen=True)
class ReceivedSum:
    """H2O: the attention that each token received from all queries so far."""

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """Sum over queries of A[q, k], the mean over the group's heads."""
        if stored.score is None:
            raise DcacheError("ReceivedSum reads running sums: give its policy the observer ColumnSums()")
        return stored.score


@dataclass(frozen=True)
class ReceivedMean:
    """ZipCache: the attention that each token received from a query that sees it, so that age is no merit."""

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """Mean over the queries behind a token, its own included, of A[q, k]."""
        visible = (context.seen[:, None, None] - stored.positions).clamp_min(1)
        return ReceivedSum().score(stored, context) / visible


@dataclass(frozen=True)
class Reconstruction:
    """KVzip: the largest attention that each token receives while the row's own text is read again."""

    probes: ClassVar[bool] = True

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """Max over the probe's queries and the group's heads of A[q, k]."""
        if context.received is None:
            raise DcacheError("Reconstruction reads what a probe received; it is scored after a forward only")
        return context.received


@dataclass(frozen=True)
class ExpectedAttention:
    """The attention that future queries are expected to pay, from the moments of past ones, times |v|.

    Args:
        future: positions ahead over which the rotation is averaged.
        skip: first tokens that take no share of the attention, as their queries have none in the moments.
    """

    future: int = 512
    skip: int = 0
    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """softmax(s K mu + s^2 K^T Sigma K / 2) |v|; mu, Sigma turned by the mean of the next rotations."""
        state = {name: tensor.double() for name, tensor in context.state.items()}
        heads = stored.keys.shape[1]
        count = state["count"].clamp_min(1)[:, None, None]
        mean = state["sum"] / count
        products = symmetric(state["products"], mean.shape[-1])
        spread = products / count[..., None] - mean[..., :, None] * mean[..., None, :]
        turns = torch.stack([context.mean_rotation(int(n), self.future) for n in context.seen]).double()
        mu = (mean @ turns.mT).float()
        sigma = (turns[:, None] @ spread @ turns[:, None].mT).float()
        groups = mu.shape[1] // heads
        keys = stored.keys.float().repeat_interleave(groups, 1)
        scaling = context.logits.scaling
        logits = (keys @ mu[..., None])[..., 0] * scaling + 0.5 * scaling**2 * ((keys @ sigma) * keys).sum(-1)
        counted = stored.valid & (stored.positions >= self.skip)
        logits = logits.masked_fill(~counted.repeat_interleave(groups, 1), float("-inf"))
        weights = logits.softmax(-1).nan_to_num(0.0).unflatten(1, (heads, groups)).mean(2)
        return weights * stored.values.float().norm(dim=-1)


def smoothed(
    score: torch.Tensor, pool: int, stored: Stored, context: Context, largest: bool = False
) -> torch.Tensor:
    """Moving average of a window's score `[B, h, M]` along the tokens, or the largest of the neighbours.

    Keys of the window itself give 0.
    """
    if pool == 1:
        return score
    # Unused slots lie between the tokens of short runs: tokens are moved together to meet their neighbours.
    order = (~stored.valid).int().argsort(dim=-1, stable=True)
    dense = score.masked_fill(~older_than_window(stored, context), 0.0).gather(-1, order)
    pooled = (F.max_pool1d if largest else F.avg_pool1d)(dense, pool, 1, pool // 2)
    return torch.zeros_like(score).scatter(-1, order, pooled)


def older_than_window(stored: Stored, context: Context) -> torch.Tensor:
    """Bool `[B, h, M]`: tokens before the kept queries' own."""
    window = context.state["query"].shape[2]
    return stored.valid & (stored.positions < (context.seen - window)[:, None, None])


def window_attention(stored: Stored, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of the kept queries on everything stored, as `attention_of` has it."""
    return attention_of(context.state, stored, context.logits)


def attention_of(state: State, stored: Stored, logits: Logits) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of the queries that a `QueryWindow` kept on everything stored, causal by position.

    Returns:
        Weights float32 `[B, h, G, W, M]`, 0 for queries that are not there, and bool `[B, W]`, which are.
    """
    counted = state["valid"]
    weights = logits.softmax(logits_of(state, stored, logits)).nan_to_num(0.0)
    return weights * counted[:, None, None, :, None], counted


def logits_of(state: State, stored: Stored, logits: Logits) -> torch.Tensor:
    """Logits of the queries that a `QueryWindow` kept, float32 `[B, h, G, W, M]`, -inf at unseen tokens."""
    folded = state["query"].float().unflatten(1, (stored.keys.shape[1], -1))
    products = logits.of(torch.einsum("bhgwd,bhtd->bhgwt", folded, stored.keys.float()))
    if stored.bias is not None:
        products = products + stored.bias[:, :, None, None]
    return products.masked_fill(~visible_from(state["position"], stored)[:, :, None], float("-inf"))


def visible_from(position: torch.Tensor, stored: Stored) -> torch.Tensor:
    """Bool `[B, h, W, M]`: stored tokens that queries at `position` `[B, W]` see."""
    return stored.valid[:, :, None] & (stored.positions[:, :, None] <= position[:, None, :, None])
