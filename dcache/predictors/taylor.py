"""TaylorSeer's series and HiCache's Hermite form of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import factorial
from typing import Any

from dcache.errors import DcacheError
from dcache.predictors.base import SiteIndependent, check_order
from dcache.util.checks import check_whole, is_number

# The published scales lie below 1; with a far larger one the weights leave the range of float32.
MAX_SCALE = 10


@dataclass(frozen=True)
class Taylor(SiteIndependent):
    """TaylorSeer's forecast as published: backward differences stand for the derivatives at the anchor.

    At an anchor with gap g to the previous one: f_0 = y, f_{i+1} = (f_i - f_i of the previous anchor) / g.
    The forecast k after the anchor is `sum_i f_i k^i / i!`. Both are linear in the anchors, so the forecast
    is a weighted sum of them.

    Args:
        order: highest i.
        since: differences are formed only at anchors whose evaluation index is at least this one (the
            reference code starts them at `first_enhance - 1`).
    """

    order: int = 1
    since: int = 0
    name: str = field(default="taylor", init=False)
    forecasts: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_order(self.order)
        check_whole("since", self.since, 0)

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """Weights of the Taylor series at the newest anchor."""
        k = tau - taus[-1]
        scales = [k**i / factorial(i) for i in range(self.order + 1)]
        return _combine(_factors(taus, steps, self.order, self.since), scales, len(taus))

    def parameters(self) -> dict[str, Any]:
        """`order` and `since`."""
        return {"order": self.order, "since": self.since}


@dataclass(frozen=True)
class Hermite(SiteIndependent):
    """HiCache (2025): TaylorSeer's factors f_i with scaled Hermite polynomials in place of the monomials.

    The forecast k after the anchor is `f_0 + sum_i scale^i H_i(scale k) / i! f_i`, with the physicists' H_i.
    From order 2 on it does not pass through its anchor, and order 1 has the slope `2 scale^2` of the line:
    both as published.

    Args:
        order: highest i.
        scale: the paper's sigma, above 0 and at most `MAX_SCALE`.
        since: as in `Taylor`.
    """

    order: int = 1
    scale: float = 0.5
    since: int = 0
    name: str = field(default="hermite", init=False)
    forecasts: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_order(self.order)
        check_whole("since", self.since, 0)
        if not is_number(self.scale) or not 0 < self.scale <= MAX_SCALE:
            raise DcacheError(f"scale must be a number above 0 and at most {MAX_SCALE}, got {self.scale!r}")

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """Weights of the Hermite series at the newest anchor."""
        x = self.scale * (tau - taus[-1])
        # H_{i+1}(x) = 2 x H_i(x) - 2 i H_{i-1}(x)
        previous, hermite = 0.0, 1.0
        scales = []
        for i in range(self.order + 1):
            scales.append(self.scale**i * hermite / factorial(i))
            previous, hermite = hermite, 2.0 * x * hermite - 2.0 * i * previous
        return _combine(_factors(taus, steps, self.order, self.since), scales, len(taus))

    def parameters(self) -> dict[str, Any]:
        """`order`, `scale` and `since`."""
        return {"order": self.order, "scale": self.scale, "since": self.since}


def _factors(taus: Sequence[float], steps: Sequence[int], order: int, since: int) -> list[list[float]]:
    """Backward differences f_0, f_1, ... at the newest anchor, each as a row of weights over the anchors."""
    n = len(taus)
    previous: list[list[float]] = []
    previous_tau = 0.0
    for a in range(n):
        # Of anchors with equal clock values only the newest counts.
        if a + 1 < n and taus[a + 1] == taus[a]:
            continue
        value = [0.0] * n
        value[a] = 1.0
        factors = [value]
        if previous and steps[a] >= since:
            gap = taus[a] - previous_tau
            for i in range(min(order, len(previous))):
                factors.append([(new - old) / gap for new, old in zip(factors[i], previous[i], strict=True)])
        previous, previous_tau = factors, taus[a]
    return previous


def _combine(factors: Sequence[Sequence[float]], scales: Sequence[float], count: int) -> list[float]:
    weights = [0.0] * count
    for row, scale in zip(factors, scales, strict=False):
        for i in range(count):
            weights[i] += scale * row[i]
    return weights
