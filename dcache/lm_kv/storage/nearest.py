"""Lost tokens are merged into kept ones: into the one with the most similar key, or into the nearest."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch.nn import functional as F

from dcache.lm_kv.codecs.codec import Codec
from dcache.lm_kv.storage.reducers import drop
from dcache.lm_kv.storage.segment import Segment
from dcache.lm_kv.storage.stored import Stored

# Tokens whose similarities to all others are held at once.
BLOCK = 256
WEIGHTS = ("average", "pivot", "weighted", "exponential")


@dataclass(frozen=True)
class MergeInto:
    """A kept token becomes a weighted mean of itself and of the lost tokens that go to it.

    Weights of the kept token and of each of n lost ones, u the cosine of their keys: "average" 1 and 1;
    "pivot" 1 + n/2 and 1/2, the mean of the token and of its middles with each; "weighted" 1 and (1 + u) / 2;
    "exponential" e and e^u. Values are merged like keys. The newest tokens, of a row's window, take none.

    Args:
        weights: one of `WEIGHTS`.
        threshold: cosine below which a token is dropped; None for the mean of the head's lost tokens.
        by_position: merge into the nearest token, of two equally near ones the older; the cosine of their
            keys is looked at all the same.
    """

    weights: str = "average"
    threshold: float | None = None
    by_position: bool = False
    slots: ClassVar[int] = 0
    lower: ClassVar[Codec | None] = None

    def __call__(self, stored: Stored, keep: torch.Tensor, codec: Codec) -> Segment:
        """The kept tokens, changed where others went to them."""
        takers = stored.takers(keep)
        lost = stored.valid & ~keep & takers.any(-1, keepdim=True)
        if not bool(lost.any()):
            return drop(stored, keep, codec)
        unit = F.normalize(stored.keys.float(), dim=-1)
        target, cosine = neighbours(stored, takers, unit) if self.by_position else most_similar(unit, takers)
        if self.threshold is None:
            mean = (cosine * lost).sum(-1, keepdim=True) / lost.sum(-1, keepdim=True).clamp_min(1)
            # Of equal similarities all are at their mean, which is rounded.
            lost = lost & (cosine >= mean - 1e-6)
        else:
            lost = lost & (cosine >= self.threshold)
        return drop(self._merged(stored, target, cosine, lost), keep, codec)

    def _merged(
        self, stored: Stored, target: torch.Tensor, cosine: torch.Tensor, lost: torch.Tensor
    ) -> Stored:
        count = torch.zeros_like(cosine).scatter_add(-1, target, lost.float())
        weight = {
            "average": lambda: torch.ones_like(cosine),
            "pivot": lambda: torch.full_like(cosine, 0.5),
            "weighted": lambda: (1 + cosine) / 2,
            "exponential": cosine.exp,
        }[self.weights]() * lost
        own = torch.full_like(cosine, math.e if self.weights == "exponential" else 1.0)
        if self.weights == "pivot":
            own = own + count / 2
        total = own + torch.zeros_like(cosine).scatter_add(-1, target, weight)

        def merged(states: torch.Tensor) -> torch.Tensor:
            wide = states.float()
            index = target[..., None].expand(states.shape)
            sums = torch.zeros_like(wide).scatter_add(2, index, weight[..., None] * wide)
            mean = ((own[..., None] * wide + sums) / total[..., None]).to(states.dtype)
            # Tokens that took none stay as they are, to the bit.
            return torch.where((count > 0)[..., None], mean, states)

        return replace(stored, keys=merged(stored.keys), values=merged(stored.values))


def most_similar(unit: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The kept token with the most similar key, int64 `[B, h, M]`, the first of equal ones, and the cosine.

    Args:
        unit: float32 `[B, h, M, d]`, keys of length 1.
        keep: bool `[B, h, M]`.
    """
    best = []
    for some in unit.split(BLOCK, 2):
        cosine = (some @ unit.mT).masked_fill(~keep[:, :, None], float("-inf"))
        best.append(cosine.max(-1))
    return torch.cat([b.indices for b in best], -1), torch.cat([b.values for b in best], -1)


def neighbours(stored: Stored, keep: torch.Tensor, unit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest kept token, int64 `[B, h, M]`, and the cosine of the keys; slots are in ascending order."""
    slots = torch.arange(keep.shape[2], device=keep.device).expand(keep.shape)
    before = slots.masked_fill(~keep, -1).cummax(-1).values
    after = slots.masked_fill(~keep, keep.shape[2]).flip(-1).cummin(-1).values.flip(-1)
    older, newer = before.clamp_min(0), after.clamp_max(keep.shape[2] - 1)
    to_older = stored.positions - stored.positions.gather(-1, older)
    to_newer = stored.positions.gather(-1, newer) - stored.positions
    target = torch.where((after == keep.shape[2]) | ((before >= 0) & (to_older <= to_newer)), older, newer)
    return target, (unit * unit.gather(2, target[..., None].expand(unit.shape))).sum(-1)
