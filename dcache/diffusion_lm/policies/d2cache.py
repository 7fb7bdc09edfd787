"""d2Cache."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from dcache.diffusion_lm.method import RowPolicy
from dcache.diffusion_lm.registry import preset
from dcache.diffusion_lm.rollout import Rollout
from dcache.diffusion_lm.step import Step
from dcache.util.checks import check_number, check_whole


@dataclass(frozen=True)
class D2Cache(RowPolicy):
    """Masked rows by confidence and the density of tokens around them; others by attention rollout."""

    masked: int
    share: float
    sigma: float
    gap: int

    def observer(self, layers: int) -> Rollout:
        """Confidence and attention rollout, by which rows are chosen."""
        return Rollout()

    def rows(self, step: Step) -> torch.Tensor:
        """Some masked rows, some others, and short gaps between them."""
        if step.confidence is None or step.influence is None:
            return torch.ones_like(step.masked)
        rows = self._likely(step, step.confidence)
        # What a loop left masked in an earlier block is context like the rest.
        others = ~(step.masked & (step.columns >= step.start)) & ~step.last
        rows = rows | nucleus(step.influence.masked_fill(~others, 0.0), self.share) & others
        # Those of the last step are the delay's.
        return filled(rows | step.last, self.gap) & ~step.last

    def _likely(self, step: Step, confidence: torch.Tensor) -> torch.Tensor:
        """The masked positions of highest confidence times density, those of the block first."""
        # A loop that calls the model without a mask has no block.
        size = max(step.end - step.start, 1)
        # Up to the end of the block that has enough masked positions before it, counted from this block.
        ahead = step.masked & (step.columns >= step.start)
        enough = (ahead.long().cumsum(1) >= self.masked).long()
        last = torch.where(enough.any(1), enough.argmax(1), step.ids.shape[1] - 1)[:, None]
        end = step.start + ((last - step.start) // size + 1) * size
        near = ahead & (step.columns < end)
        score = confidence * density(~step.masked, self.sigma) + step.block.float() * 2
        rank = score.masked_fill(~near, -1.0).argsort(dim=1, descending=True, stable=True).argsort(1)
        return near & (rank < self.masked)


def density(known: torch.Tensor, sigma: float) -> torch.Tensor:
    """Share of known positions around each, `[B, T]`, weighed by a Gaussian of `sigma` positions.

    Before the first position everything is known; behind the last one what that one is.
    """
    reach = math.ceil(4 * sigma)
    distance = torch.arange(-reach, reach + 1, device=known.device)
    kernel = torch.exp(-(distance**2) / (2 * sigma**2))
    ends = known.new_ones(len(known), reach), known[:, -1:].expand(-1, reach)
    wide = torch.cat([ends[0], known, ends[1]], 1).float()
    return F.conv1d(wide[:, None], (kernel / kernel.sum())[None, None])[:, 0]


def nucleus(score: torch.Tensor, share: float) -> torch.Tensor:
    """Bool `[B, T]`: the largest scores whose sum is at most `share` of all, and the largest one always."""
    if share == 1:
        return torch.ones_like(score, dtype=torch.bool)
    ordered, order = score.sort(dim=1, descending=True, stable=True)
    within = ordered.cumsum(1) <= share * ordered.sum(1, keepdim=True)
    within[:, 0] = True
    return torch.zeros_like(within).scatter(1, order, within)


def filled(rows: torch.Tensor, gap: int) -> torch.Tensor:
    """Rows, and what lies between two of them that are at most `gap` apart."""
    T = rows.shape[1]
    columns = torch.arange(T, device=rows.device).expand(rows.shape)
    before = torch.where(rows, columns, -T).cummax(1).values
    behind = torch.where(rows, columns, 2 * T).flip(1).cummin(1).values.flip(1)
    return rows | (behind - before <= gap)


@preset
def d2cache(masked: int = 32, share: float = 0.1, sigma: float = 10.0, gap: int = 0) -> RowPolicy:
    """d2Cache: masked rows by confidence and density, others by attention rollout (arXiv 2509.23094).

    Args:
        masked: masked positions that are computed in each sequence, those of the block first.
        share: of the attention that flows to prompt and decoded tokens, whose rows are computed for it; 0 to
            1, and one token at least.
        sigma: positions over which tokens around a masked position count.
        gap: rows between two that are computed are also, where those are at most so far apart; 0 for none.
    """
    check_whole("masked", masked, 1)
    check_number("share", share, 0, 1)
    check_number("sigma", sigma, 1e-6)
    check_whole("gap", gap, 0)
    return D2Cache(masked, share, sigma, gap)
