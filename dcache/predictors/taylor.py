"""TaylorSeer's series and HiCache's Hermite form of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import factorial
from typing import Any

from dcache.errors import DcacheError
from dcache.predictors.base import SiteIndependent, check_order
from dcache.util.checks import check_whole


@dataclass(frozen=True)
class Taylor(SiteIndependent):
    """The published TaylorSeer forecast: nested backward differences taken for derivatives at the anchor.

    At an anchor with gap g to the one before: f_0 = y, f_{i+1} = (f_i - f_i of the anchor before) / g. The
    forecast k after the anchor is `sum_i f_i k^i / i!`. Both are linear in the anchors, so the forecast is a
    weighted sum of them.

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
        """Check the order and the first evaluation with differences."""
        check_order(self.order)
        check_whole("since", self.since, 0)

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """The series over the factors at the newest anchor."""
        k = tau - taus[-1]
        scales = [k**i / factorial(i) for i in range(self.order + 1)]
        return _combine(_factors(taus, steps, self.order, self.since), scales, len(taus))

    def parameters(self) -> dict[str, Any]:
        """Order and first evaluation with differences."""
        return {"order": self.order, "since": self.since}


@dataclass(frozen=True)
class Hermite(SiteIndependent):
    """HiCache (2025): TaylorSeer's factors f_i with scaled Hermite polynomials in place of the monomials.

    The forecast k after the anchor is `f_0 + sum_i scale^i H_i(scale k) / i! f_i`, with the physicists' H_i.
    From order 2 on it does not pass through its anchor, and order 1 has the slope `2 scale^2` of the line:
    both as published.

    Args:
        order: highest i.
        scale: the paper's sigma.
        since: as in `Taylor`.
    """

    order: int = 1
    scale: float = 0.5
    since: int = 0
    name: str = field(default="hermite", init=False)
    forecasts: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Check the order, the first evaluation with differences and the scale."""
        check_order(self.order)
        check_whole("since", self.since, 0)
        if not isinstance(self.scale, int | float) or isinstance(self.scale, bool) or not self.scale > 0:
            raise DcacheError(f"scale must be a number above 0, got {self.scale!r}")

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """The series over the factors at the newest anchor."""
        x = self.scale * (tau - taus[-1])
        before, here = 0.0, 1.0
        scales = []
        for i in range(self.order + 1):
            scales.append(self.scale**i * here / factorial(i))
            before, here = here, 2.0 * x * here - 2.0 * i * before
        return _combine(_factors(taus, steps, self.order, self.since), scales, len(taus))

    def parameters(self) -> dict[str, Any]:
        """Order, scale, first evaluation with differences."""
        return {"order": self.order, "scale": self.scale, "since": self.since}


def _factors(taus: Sequence[float], steps: Sequence[int], order: int, since: int) -> list[list[float]]:
    """Nested backward differences at the newest anchor, each as a row of weights over the anchors."""
    n = len(taus)
    previous: list[list[float]] = []
    before = 0.0
    for a in range(n):
        if a + 1 < n and taus[a + 1] == taus[a]:
            continue
        own = [0.0] * n
        own[a] = 1.0
        factors = [own]
        if previous and steps[a] >= since:
            gap = taus[a] - before
            for i in range(min(order, len(previous))):
                factors.append([(new - old) / gap for new, old in zip(factors[i], previous[i], strict=True)])
        previous, before = factors, taus[a]
    return previous


def _combine(factors: Sequence[Sequence[float]], scales: Sequence[float], count: int) -> list[float]:
    weights = [0.0] * count
    for row, scale in zip(factors, scales, strict=False):
        for i in range(count):
            weights[i] += scale * row[i]
    return weights
