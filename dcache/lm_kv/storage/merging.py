"""KVMerger's reducer: neighbours with like keys become one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch.nn import functional as F

from dcache.lm_kv.codecs.codec import Codec
from dcache.lm_kv.storage.reducers import drop
from dcache.lm_kv.storage.segment import Segment
from dcache.lm_kv.storage.stored import Stored


@dataclass(frozen=True)
class MergeRuns:
    """Lost tokens are merged into the pivot of their run; a run without a kept token is dropped.

    A run is a row of neighbours whose keys have a cosine above the threshold. Its pivot is the kept token
    with the highest statistic, the first of equal ones. Keys and values are means with the weights
    exp(-|k - k_pivot|^2 / D^2), D the mean distance of the run's lost tokens; the logarithm of the number of
    tokens that a pivot stands for is its bias.

    Args:
        threshold: cosine of neighbours above which they are in one run.
    """

    threshold: float = 0.9
    slots: ClassVar[int] = 0
    lower: ClassVar[Codec | None] = None

    def __call__(self, stored: Stored, keep: torch.Tensor, codec: Codec) -> Segment:
        """The kept tokens, pivots changed."""
        if keep.shape[2] == 0:
            return drop(stored, keep, codec)
        stored, keep = _together(stored, keep)
        keys, values = stored.keys.float(), stored.values.float()
        bias = stored.bias
        if bias is None:
            bias = torch.zeros(keep.shape, dtype=torch.float32, device=keep.device)
        pivot, lost = self._pivots(stored, keep, keys)
        distance = (keys - _at(keys, pivot)).norm(dim=-1) * lost
        count = _sum(lost.float(), pivot, lost)
        spread = (_sum(distance, pivot, lost) / count.clamp_min(1.0)).gather(-1, pivot)
        near = torch.exp(-((distance / spread.clamp_min(1e-12)) ** 2))
        weight = near * bias.exp() * lost
        changed = count > 0
        mass = bias.exp() + _sum(bias.exp(), pivot, lost)
        total = (bias.exp() + _sum(weight, pivot, lost))[..., None]
        new = [
            (bias.exp()[..., None] * states + _sum(weight[..., None] * states, pivot, lost)) / total
            for states in (keys, values)
        ]
        merged = replace(
            stored,
            keys=torch.where(changed[..., None], new[0].to(stored.keys.dtype), stored.keys),
            values=torch.where(changed[..., None], new[1].to(stored.values.dtype), stored.values),
            bias=torch.where(changed, mass.log(), bias),
        )
        return drop(merged, keep, codec)

    def _pivots(
        self, stored: Stored, keep: torch.Tensor, keys: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each slot's pivot, int64 `[rows, heads, M]`, and bool, which lost tokens have one."""
        alike = F.cosine_similarity(keys[:, :, 1:], keys[:, :, :-1], dim=-1) > self.threshold
        begins = F.pad(~(alike & stored.valid[:, :, 1:]), (1, 0), value=True)
        run = begins.cumsum(-1) - 1
        rank = torch.zeros_like(keys[..., 0]) if stored.score is None else stored.score
        takers = stored.takers(keep)
        rank = rank.masked_fill(~takers, float("-inf"))
        best = torch.full_like(rank, float("-inf")).scatter_reduce(-1, run, rank, "amax").gather(-1, run)
        slots = torch.arange(keep.shape[2], device=keep.device).expand(keep.shape)
        candidates = slots.masked_fill(~(takers & (rank == best)), keep.shape[2])
        first = torch.full_like(slots, keep.shape[2]).scatter_reduce(-1, run, candidates, "amin")
        pivot = first.gather(-1, run)
        lost = stored.valid & ~keep & (pivot < keep.shape[2])
        return pivot.clamp_max(keep.shape[2] - 1), lost


def _together(stored: Stored, keep: torch.Tensor) -> tuple[Stored, torch.Tensor]:
    """The same with unused slots behind all tokens, so that neighbours lie side by side."""
    order = (~stored.valid).int().argsort(dim=-1, stable=True)
    return stored.each(lambda part: _at(part, order)), keep.gather(-1, order)


def _at(states: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """States `[rows, heads, M, ...]` of these slots `[rows, heads, M]`."""
    return states.gather(2, slots.view(*slots.shape, *[1] * (states.ndim - 3)).expand_as(states))


def _sum(states: torch.Tensor, pivot: torch.Tensor, lost: torch.Tensor) -> torch.Tensor:
    """Sums of the lost tokens' states `[rows, heads, M, ...]` at their pivots, 0 elsewhere."""
    shape = (*pivot.shape, *[1] * (states.ndim - 3))
    counted = states * lost.view(shape)
    return torch.zeros_like(states).scatter_add(2, pivot.view(shape).expand_as(states), counted)
