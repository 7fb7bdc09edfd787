"""Predictors: how remembered tensors are carried to now.

Every predictor here is a set of host-side weights over the last anchors: `z(tau) = sum_i w_i z_i`. A
predictor is pure; it sees the anchors' clock values (oldest first) and the clock value now, and returns one
weight per anchor. Of anchors with equal clock values only the newest counts.

| name     | anchors | exact on                                            | source                          |
|----------|---------|-----------------------------------------------------|---------------------------------|
| `reuse`  | 1       | constants                                           | FORA, Delta-DiT and many others |
| `taylor` | m + 1   | straight lines, whatever the order                  | TaylorSeer, eq. of the forecast |
| `newton` | m + 1   | polynomials of degree m, any gaps, any clock        | Newton interpolation            |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import factorial
from typing import Any, Protocol

from dcache.errors import DcacheError

MAX_ORDER = 6


class Predictor(Protocol):
    """What the session needs of a predictor."""

    @property
    def name(self) -> str:
        """Registry name, as written into a schedule."""
        ...

    @property
    def order(self) -> int:
        """Highest order; `order + 1` anchors are kept."""
        ...

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """One weight per anchor.

        Args:
            taus: clock values of the anchors, oldest first.
            steps: evaluation indices of the same anchors.
            tau: the clock value to predict at.
        """
        ...

    def parameters(self) -> dict[str, Any]:
        """What `make` needs beside the name to build an equal predictor."""
        ...


@dataclass(frozen=True)
class Reuse:
    """The newest anchor as it is."""

    name: str = field(default="reuse", init=False)
    order: int = field(default=0, init=False)

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """Weight one on the newest anchor."""
        return [0.0] * (len(taus) - 1) + [1.0]

    def parameters(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}


@dataclass(frozen=True)
class Newton:
    """The polynomial through the last `order + 1` anchors with their true clock gaps, in Lagrange form."""

    order: int = 1
    name: str = field(default="newton", init=False)

    def __post_init__(self) -> None:
        """Check the order."""
        _check_order(self.order)

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """Lagrange weights."""
        known: dict[float, int] = {}
        for i in range(len(taus) - 1, -1, -1):
            if taus[i] not in known and len(known) <= self.order:
                known[taus[i]] = i
        weights = [0.0] * len(taus)
        for here, i in known.items():
            w = 1.0
            for other in known:
                if other != here:
                    w *= (tau - other) / (here - other)
            weights[i] = w
        return weights

    def parameters(self) -> dict[str, Any]:
        """The order."""
        return {"order": self.order}


@dataclass(frozen=True)
class Taylor:
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

    def __post_init__(self) -> None:
        """Check the order and the first evaluation with differences."""
        _check_order(self.order)
        if not isinstance(self.since, int) or isinstance(self.since, bool) or self.since < 0:
            raise DcacheError(f"since must be a whole number of at least 0, got {self.since!r}")

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """Unfold the recursion over the anchors; a factor is a row of weights over them."""
        n = len(taus)
        previous: list[list[float]] = []
        before = tau
        for a in range(n):
            if a + 1 < n and taus[a + 1] == taus[a]:
                continue
            factors = [[1.0 if i == a else 0.0 for i in range(n)]]
            if previous and steps[a] >= self.since:
                gap = taus[a] - before
                for i in range(min(self.order, len(previous))):
                    factors.append(
                        [(new - old) / gap for new, old in zip(factors[i], previous[i], strict=True)]
                    )
            previous, before = factors, taus[a]
        k = tau - taus[-1]
        weights = [0.0] * n
        for i, row in enumerate(previous):
            scale = k**i / factorial(i)
            weights = [w + scale * r for w, r in zip(weights, row, strict=True)]
        return weights

    def parameters(self) -> dict[str, Any]:
        """Order and first evaluation with differences."""
        return {"order": self.order, "since": self.since}


_MAKERS: dict[str, type[Reuse] | type[Newton] | type[Taylor]] = {
    "reuse": Reuse,
    "newton": Newton,
    "taylor": Taylor,
}


def make(name: str, parameters: Mapping[str, Any]) -> Predictor:
    """Build a predictor from its name and parameters, as a schedule file holds them.

    Raises:
        DcacheError: the name or a parameter is unknown.
    """
    maker = _MAKERS.get(name)
    if maker is None:
        raise DcacheError(f"predictor {name!r} is unknown: expected one of {', '.join(_MAKERS)}")
    try:
        return maker(**parameters)
    except TypeError as error:
        raise DcacheError(f"predictor {name!r} does not take {dict(parameters)}: {error}") from None


def _check_order(order: int) -> None:
    if not isinstance(order, int) or isinstance(order, bool) or not 0 <= order <= MAX_ORDER:
        raise DcacheError(f"order must be a whole number from 0 to {MAX_ORDER}, got {order!r}")
