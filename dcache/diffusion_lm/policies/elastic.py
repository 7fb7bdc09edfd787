"""Elastic-Cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dcache.diffusion_lm.drift import Drift, When
from dcache.diffusion_lm.method import RowPolicy
from dcache.diffusion_lm.registry import preset
from dcache.diffusion_lm.step import Step
from dcache.errors import DcacheError
from dcache.util.checks import check_number


@dataclass(frozen=True)
class Elastic(RowPolicy):
    """Rows of the decode window and of tracked tokens; the drift test adds all others from a layer on."""

    window: int = 16
    gamma: float = 0.9
    when: When = "next"
    needs = "a decode window"
    taps = True

    def observer(self, layers: int) -> Drift | None:
        """The drift test; None where gamma leaves nothing to test."""
        return Drift(layers, self.gamma, self.when, self.window) if -1 < self.gamma <= 1 else None

    def probe(self, layers: int) -> Drift:
        """A test that always fails."""
        return Drift(layers, 2.0, "now", self.window)

    def refresh(self, step: Step) -> str | None:
        """Always where no similarity reaches gamma."""
        return "every" if self.gamma > 1 else None

    def rows(self, step: Step) -> torch.Tensor:
        """The window, and the tracked tokens of all layers."""
        window = step.leftmost(self.window)
        return window if step.tracked is None else window | step.tracked


@preset
def elastic(gamma: float = 0.9, window: int = 16, when: When = "next") -> RowPolicy:
    """Elastic-Cache: a decode window, and a refresh from the layer where attention drifts (arXiv 2510.14973).

    Args:
        gamma: least similarity of a tracked token's attention; more than 1 computes everything, -1 or less
            never tests.
        window: masked positions that are computed and decoded, clipped to the block.
        when: "now" refreshes from the next layer on, as published; "next" in the next forward, which costs
            one synchronisation of a GPU a step and no more.
    """
    check_number("gamma", gamma)
    if when not in ("now", "next"):
        raise DcacheError(f"when must be 'now' or 'next', got {when!r}")
    return Elastic(window, gamma, when)
