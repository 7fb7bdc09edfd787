"""Which KV heads look far back, and a score that keeps these whole: DuoAttention and RazorAttention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.scoring.by_position import layer_mean
from dcache.lm_kv.scoring.scorers import Context, ranks, smoothed, window_attention
from dcache.lm_kv.scoring.window_columns import window_mean
from dcache.lm_kv.storage.stored import Stored

# For each layer of the model a number from 0 to 1 for each KV head; layers without full attention have ().
Pattern: TypeAlias = tuple[tuple[float, ...], ...]
# Heads whose values differ by less than a step are alike.
STEPS = 1024


@dataclass(frozen=True)
class HeadClasses:
    """Heads that look far back before others; in a head, newer tokens before older ones.

    Under the allocation "global" with no floor the first heads keep everything, and the others what is
    protected; the budget decides how many there are of each.

    Args:
        pattern: how far each head looks back, as `head_pattern` or a calibration gives it; None to estimate
            it in every text from the last queries: how much of their attention lies behind the first tokens
            and before the last fifth of the text, in the head of the group where it is most.
        sinks: first tokens that do not count in the estimate.
    """

    pattern: Pattern | None = None
    sinks: int = 4
    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """The head's step, plus the position as a share of the text; float64."""
        reach = reach_of(self.pattern, self.sinks, stored, context)
        # Beside a step float32 has digits for the positions of 8192 tokens.
        recency = (stored.positions.double() + 0.5) / (context.seen[:, None, None] + 1)
        return (reach * STEPS).floor()[..., None] + recency.clamp(0.0, 1.0)


@dataclass(frozen=True)
class VotesOfFarHeads:
    """CompressKV: the attention of the heads that look farthest back, for all heads of the layer.

    It reads the last queries, so the policy's observer must be `QueryWindow`.

    Args:
        pattern: as in `HeadClasses`.
        heads: how many KV heads of a layer vote; those with the largest numbers, of equal ones the first.
        pool: width of the moving average, odd; 1 for none.
    """

    pattern: Pattern | None
    heads: int
    pool: int = 1
    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """Mean over the voting heads and the window's queries of A[q, k], smoothed."""
        attention = window_mean(stored, context.state, context.logits)
        votes = ranks(reach_of(self.pattern, 4, stored, context)) < self.heads
        return smoothed(layer_mean(attention, stored, votes), self.pool, stored, context)


def reach_of(pattern: Pattern | None, sinks: int, stored: Stored, context: Context) -> torch.Tensor:
    """How far each KV head of a layer looks back, float32 `[B or 1, h]`: as given, else estimated.

    Raises:
        DcacheError: the pattern has other numbers of heads than the model.
    """
    if pattern is None:
        return _estimated(sinks, stored, context)
    heads = stored.keys.shape[1]
    values = pattern[context.layer] if context.layer < len(pattern) else ()
    if len(values) != heads:
        raise DcacheError(
            f"pattern must have {heads} numbers for layer {context.layer}, one for each KV head, got "
            f"{len(values)}: lm_kv.head_pattern(model) measures one"
        )
    return torch.tensor(values, dtype=torch.float32, device=stored.keys.device)[None]


def _estimated(sinks: int, stored: Stored, context: Context) -> torch.Tensor:
    weights, counted = window_attention(stored, context)
    near = context.state["position"] - context.seen[:, None] // 5
    far = (stored.positions >= sinks)[:, :, None] & (stored.positions[:, :, None] <= near[:, None, :, None])
    mass = (weights * far[:, :, None]).sum((3, 4))
    return (mass / counted.sum(1).clamp_min(1)[:, None, None]).amax(2)
