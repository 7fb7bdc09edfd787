"""Reuse, the polynomial through the anchors, and a line with a fixed slope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dcache.errors import DcacheError
from dcache.predictors.base import SiteIndependent, check_order
from dcache.util.checks import is_finite


@dataclass(frozen=True)
class Reuse(SiteIndependent):
    """The newest anchor, unchanged."""

    name: str = field(default="reuse", init=False)
    order: int = field(default=0, init=False)
    forecasts: bool = field(default=False, init=False)

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """Weight one on the newest anchor."""
        return [0.0] * (len(taus) - 1) + [1.0]

    def parameters(self) -> dict[str, Any]:
        """Empty: the predictor has no parameters."""
        return {}


@dataclass(frozen=True)
class Newton(SiteIndependent):
    """The polynomial through the last `order + 1` anchors with their true clock gaps, in Lagrange form."""

    order: int = 1
    name: str = field(default="newton", init=False)
    forecasts: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_order(self.order)

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """Lagrange weights: w_i = prod_j (tau - tau_j) / (tau_i - tau_j)."""
        # The newest anchor at each of the last `order + 1` different clock values.
        nodes: dict[float, int] = {}
        for i in range(len(taus) - 1, -1, -1):
            if taus[i] not in nodes and len(nodes) <= self.order:
                nodes[taus[i]] = i
        weights = [0.0] * len(taus)
        for tau_i, i in nodes.items():
            w = 1.0
            for tau_j in nodes:
                if tau_j != tau_i:
                    w *= (tau - tau_j) / (tau_i - tau_j)
            weights[i] = w
        return weights

    def parameters(self) -> dict[str, Any]:
        """The order."""
        return {"order": self.order}


@dataclass(frozen=True)
class Linear(SiteIndependent):
    """The newest anchor plus a fixed share of its difference to the one before: z_n + w (z_n - z_{n-1}).

    Args:
        weight: w; FasterCache takes 0.5, which is exact on lines if every other evaluation is computed.
    """

    weight: float = 0.5
    name: str = field(default="linear", init=False)
    order: int = field(default=1, init=False)
    forecasts: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not is_finite(self.weight):
            raise DcacheError(f"weight must be a finite number, got {self.weight!r}")

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """-weight and 1 + weight for the last two anchors, whatever the clock; reuse with one anchor."""
        return [0.0] * (len(taus) - 2) + [-self.weight, 1.0 + self.weight] if len(taus) > 1 else [1.0]

    def parameters(self) -> dict[str, Any]:
        """The weight."""
        return {"weight": self.weight}
