"""Predictors: the weights of a prediction from the last anchors.

A prediction is a weighted sum of anchors, `z(tau) = sum_i w_i z_i`. A predictor is a pure function on the
CPU: it reads the clock values of the anchors (oldest first) and of the current evaluation, and returns one
weight per anchor. Of anchors with equal clock values only the newest has a weight.

| name     | anchors | exact on                                            | source                          |
|----------|---------|-----------------------------------------------------|---------------------------------|
| `reuse`  | 1       | constants                                           | FORA, Delta-DiT and many others |
| `taylor` | m + 1   | straight lines, whatever the order                  | TaylorSeer, eq. of the forecast |
| `newton` | m + 1   | polynomials of degree m, any gaps, any clock        | Newton interpolation            |
| `linear` | 2       | lines whose last gap is `1 / weight` of the next    | FasterCache                     |
| `hermite`| m + 1   | constants; lines if scale^2 = 1/2                   | HiCache                         |
| `foca`   | 2       | lines with anchors one step apart                   | FoCa                            |
| `chebyshev` | many | polynomials up to its degree, where ridge is 0      | Spectrum                        |
| `guided_line` | 2  | lines; in a guided batch the mean of the halves     | ours                            |
| `fitted` | any     | least squares on observed runs (`predictors.fitted`)| ours                            |
"""

from typing import TYPE_CHECKING

from dcache.predictors.base import MAX_ORDER, Predictor, SiteIndependent
from dcache.predictors.chebyshev import Chebyshev
from dcache.predictors.fitted import Fitted
from dcache.predictors.foca import Foca
from dcache.predictors.guided_line import GuidedLine
from dcache.predictors.polynomial import Linear, Newton, Reuse
from dcache.predictors.registry import make, register
from dcache.predictors.taylor import Hermite, Taylor
from dcache.util.renamed import renamed

__all__ = [
    "MAX_ORDER",
    "Chebyshev",
    "Fitted",
    "Foca",
    "GuidedLine",
    "Hermite",
    "Linear",
    "Newton",
    "Predictor",
    "Reuse",
    "SiteIndependent",
    "Taylor",
    "make",
    "register",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Everywhere": "SiteIndependent"})
