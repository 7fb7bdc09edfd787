"""Spectrum's forecast: a ridge fit of Chebyshev polynomials to all anchors, mixed with a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dcache.errors import DcacheError
from dcache.predictors.base import SiteIndependent, check_order
from dcache.predictors.polynomial import Newton
from dcache.util.checks import check_number, check_whole

_LINE = Newton(1)


@dataclass(frozen=True)
class Chebyshev(SiteIndependent):
    """Spectrum (2026): features as Chebyshev series of the evaluation, fitted to many anchors.

    With the clock mapped to x = 2 tau / steps - 1, Phi the rows T_0(x_i) ... T_m(x_i) of the anchors and
    phi = T_0(x) ... T_m(x), the fit's weights are `Phi (Phi^T Phi + ridge I)^-1 phi`. They are mixed with
    those of the line through the last two anchors: `blend fit + (1 - blend) line`.

    The ridge also shrinks the constant term, as published: the fit's weights sum to less than 1. Fewer than
    `degree + 1` anchors are fitted with as many terms as there are anchors.

    Args:
        degree: m, the highest polynomial, from 0 to `MAX_ORDER`.
        ridge: lambda; with 0 the fit is exact on polynomials up to `degree`.
        blend: share of the fit, from 0 to 1.
        steps: clock values 0 to `steps` are mapped to -1 to 1.
        order: anchors less one; the oldest are dropped beyond it.
    """

    degree: int = 4
    ridge: float = 0.1
    blend: float = 0.5
    steps: int = 50
    order: int = 15
    name: str = field(default="chebyshev", init=False)
    forecasts: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_order(self.degree, "degree")
        check_number("ridge", self.ridge, 0.0)
        check_number("blend", self.blend, 0.0)
        if self.blend > 1:
            raise DcacheError(f"blend must be a share from 0 to 1, got {self.blend!r}")
        check_whole("steps", self.steps, 1)
        check_whole("anchors", self.order + 1, 1)

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """The fit's and the line's weights, mixed."""
        weights = [(1 - self.blend) * w for w in _LINE.weights(taus, steps, tau)]
        newest = {value: i for i, value in enumerate(taus)}
        fit = self._fit(list(newest), tau)
        for i, w in zip(newest.values(), fit, strict=True):
            weights[i] += self.blend * w
        return weights

    def parameters(self) -> dict[str, Any]:
        """Every field that it is made with."""
        return {
            "degree": self.degree,
            "ridge": self.ridge,
            "blend": self.blend,
            "steps": self.steps,
            "order": self.order,
        }

    def _fit(self, taus: list[float], tau: float) -> list[float]:
        """The weights of anchors at different clock values in the ridge fit at `tau`."""
        # Importing dcache loads no numpy.
        import numpy as np

        x = 2.0 * np.array([*taus, tau]) / self.steps - 1.0
        columns = [np.ones_like(x), x]
        while len(columns) <= self.degree:
            columns.append(2.0 * x * columns[-1] - columns[-2])
        series = np.stack(columns[: min(self.degree + 1, len(taus))], axis=1)
        phi, now = series[:-1], series[-1]
        fit: list[float] = (phi @ np.linalg.solve(phi.T @ phi + self.ridge * np.eye(len(now)), now)).tolist()
        return fit
