"""FoCa's forecast: a BDF2 predictor with a Heun corrector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dcache.predictors.base import SiteIndependent


@dataclass(frozen=True)
class Foca(SiteIndependent):
    """FoCa (2025): features as an ODE's trajectory, a BDF2 predictor with a Heun corrector, steps of one.

    With F the last two entries before now, predicted or computed, and A the last two anchors, the next entry
    is `2 F_k - F_{k-1} + ((A_n - A_{n-1}) - (F_k - F_{k-1})) / 2`. Unfolded from the anchor A_n, with P the
    entry before it, the k-th entry after it is
    `A_n + (1 - 2^-k) (A_n - P) + (k - 1 + 2^-k) (A_n - A_{n-1})`.
    """

    name: str = field(default="foca", init=False)
    order: int = field(default=1, init=False)
    forecasts: bool = field(default=True, init=False)

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """Weights of the two anchors, and of the entry before the newest."""
        k = tau - taus[-1]
        decay = 1.0 - 2.0**-k
        return [decay - k, 1.0 + k, -decay]

    def parameters(self) -> dict[str, Any]:
        """Empty: the predictor has no parameters."""
        return {}
