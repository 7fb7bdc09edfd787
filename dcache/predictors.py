"""Predictors: how remembered tensors are carried to now.

Every predictor here is a set of host-side weights over the last anchors: `z(tau) = sum_i w_i z_i`. A
predictor is pure; it sees the anchors' clock values (oldest first) and the clock value now, and returns one
weight per anchor. Of anchors with equal clock values only the newest counts.

| name     | anchors | exact on                                            | source                          |
|----------|---------|-----------------------------------------------------|---------------------------------|
| `reuse`  | 1       | constants                                           | FORA, Delta-DiT and many others |
| `taylor` | m + 1   | straight lines, whatever the order                  | TaylorSeer, eq. of the forecast |
| `newton` | m + 1   | polynomials of degree m, any gaps, any clock        | Newton interpolation            |
| `linear` | 2       | lines whose last gap is `1 / weight` of the next    | FasterCache                     |
| `hermite`| m + 1   | constants; lines if scale^2 = 1/2                   | HiCache                         |
| `foca`   | 2       | lines with anchors one step apart                   | FoCa                            |
| `fitted` | any     | what it was fitted on (`dcache.fitted`)             | ours                            |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import factorial, isnan
from typing import Any, Protocol, Self

from dcache.errors import DcacheError
from dcache.fitted import Fitted

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

    @property
    def forecasts(self) -> bool:
        """Whether it also reads the last entry before the newest anchor; that one's weight comes last."""
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

    def at(self, site: str) -> Predictor:
        """The predictor of one site, by its name."""
        ...


class Everywhere:
    """A predictor that is the same at every site."""

    def at(self, site: str) -> Self:
        """Itself."""
        return self


class Lately:
    """The weights that were asked for last: most sites are remembered alike, and ask the same in turn."""

    def __init__(self) -> None:
        self._asked: tuple[Any, ...] = ()
        self._weights: list[float] = []

    def weights(
        self, predictor: Predictor, taus: Sequence[float], steps: Sequence[int], tau: float
    ) -> list[float]:
        """What the predictor says; not to be written to."""
        asked = self._asked
        if not asked or asked[0] is not predictor or asked[1:] != (tau, taus, steps):
            # The lists grow while a run goes on.
            self._asked = (predictor, tau, list(taus), list(steps))
            self._weights = predictor.weights(taus, steps, tau)
        return self._weights


@dataclass(frozen=True)
class Reuse(Everywhere):
    """The newest anchor as it is."""

    name: str = field(default="reuse", init=False)
    order: int = field(default=0, init=False)
    forecasts: bool = field(default=False, init=False)

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """Weight one on the newest anchor."""
        return [0.0] * (len(taus) - 1) + [1.0]

    def parameters(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}


@dataclass(frozen=True)
class Newton(Everywhere):
    """The polynomial through the last `order + 1` anchors with their true clock gaps, in Lagrange form."""

    order: int = 1
    name: str = field(default="newton", init=False)
    forecasts: bool = field(default=False, init=False)

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
class Taylor(Everywhere):
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
        _check_order(self.order)
        _check_since(self.since)

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """The series over the factors at the newest anchor."""
        k = tau - taus[-1]
        scales = [k**i / factorial(i) for i in range(self.order + 1)]
        return _combine(_factors(taus, steps, self.order, self.since), scales, len(taus))

    def parameters(self) -> dict[str, Any]:
        """Order and first evaluation with differences."""
        return {"order": self.order, "since": self.since}


@dataclass(frozen=True)
class Linear(Everywhere):
    """The newest anchor plus a fixed share of its difference to the one before: z_n + w (z_n - z_{n-1}).

    Args:
        weight: w; FasterCache takes 0.5, which is exact on lines if every other evaluation is computed.
    """

    weight: float = 0.5
    name: str = field(default="linear", init=False)
    order: int = field(default=1, init=False)
    forecasts: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Check the weight."""
        if not isinstance(self.weight, int | float) or isinstance(self.weight, bool) or isnan(self.weight):
            raise DcacheError(f"weight must be a number, got {self.weight!r}")

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """The clock plays no part."""
        return [0.0] * (len(taus) - 2) + [-self.weight, 1.0 + self.weight] if len(taus) > 1 else [1.0]

    def parameters(self) -> dict[str, Any]:
        """The weight."""
        return {"weight": self.weight}


@dataclass(frozen=True)
class Hermite(Everywhere):
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
        _check_order(self.order)
        _check_since(self.since)
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


@dataclass(frozen=True)
class Foca(Everywhere):
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
        """Of the two anchors, and of the entry before the newest."""
        k = tau - taus[-1]
        bend = 1.0 - 2.0**-k
        return [bend - k, 1.0 + k, -bend]

    def parameters(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}


_MAKERS: dict[str, Callable[..., Predictor]] = {
    "reuse": Reuse,
    "newton": Newton,
    "taylor": Taylor,
    "linear": Linear,
    "hermite": Hermite,
    "foca": Foca,
    "fitted": Fitted,
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


def _check_since(since: int) -> None:
    if not isinstance(since, int) or isinstance(since, bool) or since < 0:
        raise DcacheError(f"since must be a whole number of at least 0, got {since!r}")


def _check_order(order: int) -> None:
    if not isinstance(order, int) or isinstance(order, bool) or not 0 <= order <= MAX_ORDER:
        raise DcacheError(f"order must be a whole number from 0 to {MAX_ORDER}, got {order!r}")
