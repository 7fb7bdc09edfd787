"""dKV-Cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from dcache.diffusion_lm.method import RowPolicy
from dcache.diffusion_lm.registry import preset
from dcache.diffusion_lm.step import Step
from dcache.errors import DcacheError
from dcache.util.checks import check_whole

VARIANTS = ("decode", "greedy", "prefill", "pd")


@dataclass(frozen=True)
class DKVDecode(RowPolicy):
    """Masked rows; all rows every `interval` steps of a block."""

    interval: int

    def refresh(self, step: Step) -> str | None:
        """When a block begins and when the interval is over."""
        if step.in_block == 0:
            return "block"
        return "interval" if self.interval and step.in_block % self.interval == 0 else None

    def rows(self, step: Step) -> torch.Tensor:
        """All masked rows, those of later blocks too."""
        return step.masked


@dataclass(frozen=True)
class DKVGreedy(DKVDecode):
    """Rows to be decoded now, and the masked ones nearest to them."""

    window: int | None = None
    neighbours: int = 4
    upcoming = True
    needs = "the positions to be decoded before each forward"

    def rows(self, step: Step) -> torch.Tensor:
        """The next positions and their neighbours, ties to the left."""
        if step.upcoming is None:
            return step.masked
        columns = step.columns
        far = len(columns)
        distance = (columns[:, None] - columns[None]).abs()
        nearest = torch.where(step.upcoming[:, None], distance, far).amin(-1)
        nearest = nearest.masked_fill(~step.masked | step.upcoming, far)
        rank = nearest.argsort(dim=1, stable=True).argsort(1)
        return step.upcoming | ((rank < self.neighbours) & (nearest < far))


@dataclass(frozen=True)
class DKVPrefill(RowPolicy):
    """Everything but the prompt."""

    def rows(self, step: Step) -> torch.Tensor:
        """The generation region."""
        return step.region


@dataclass(frozen=True)
class DKVPrefillDecode(RowPolicy):
    """Masked rows; all but the prompt every `interval` steps."""

    interval: int

    def rows(self, step: Step) -> torch.Tensor:
        """The masked rows, or the generation region when the interval is over."""
        due = self.interval and step.in_block % self.interval == 0
        return step.region if due or step.in_block == 0 else step.masked


@preset
def dkv(
    variant: Literal["decode", "greedy", "prefill", "pd"] = "decode", refresh: int = 8, window: int = 4
) -> RowPolicy:
    """dKV-Cache: a decoded token is computed once more and then stays (Ma et al. 2025, arXiv 2505.15781).

    Args:
        variant: "decode"; "greedy" computes the tokens to be decoded now and their neighbours, for decoders
            with a known order; "prefill" computes the prompt once; "pd" is decode with a prompt that is
            computed once.
        refresh: steps of a block after which all rows are computed; 0 for never within a block.
        window: masked neighbours that "greedy" computes.
    """
    check_whole("refresh", refresh, 0)
    check_whole("window", window, 0)
    if variant not in VARIANTS:
        raise DcacheError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if variant == "greedy":
        return DKVGreedy(refresh, neighbours=window)
    if variant == "prefill":
        return DKVPrefill()
    return DKVDecode(refresh) if variant == "decode" else DKVPrefillDecode(refresh)
