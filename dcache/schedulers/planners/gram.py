"""Predictions judged and fitted by the Gram matrix of what is remembered; pure numpy.

`gram[t, u]` is the mean of z_t * z_u over elements and pictures, (T, T). A prediction is a weighted sum of
anchors whose weights sum to one, so its mean squared error is a quadratic form in Gram entries: from one
observed run follows the error of any predictor at any anchors, and the weights that make it least. The sum of
one is a constraint, not an outcome: unconstrained least squares shrinks the features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dcache.errors import DcacheError
from dcache.profile import Floats
from dcache.schedule.anchors import last_before

# Of the power of the differences between anchors: what is added to it, so that close anchors do not blow up.
RIDGE = 1e-3
# No weight is larger: what `dcache.predictors.fitted` takes, with room for rounding.
_LARGEST = 99.0
_TINY = np.finfo(np.float64).tiny


class Weighted(Protocol):
    """What is needed of a predictor, as in `dcache.predictors`."""

    @property
    def order(self) -> int:
        """It reads `order + 1` anchors."""
        ...

    @property
    def forecasts(self) -> bool:
        """Whether it reads the entry before the newest anchor too, whose weight comes last."""
        ...

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """One weight for each anchor."""
        ...


def weights(gram: Floats, anchors: Sequence[int], t: int, ridge: float = RIDGE) -> Floats:
    """The weights of the least mean squared error of `sum_i w_i z_i` to `z_t`, subject to `sum_i w_i = 1`.

    The constraint is solved for the newest anchor, whose weight is one minus the others': least squares on
    the differences of the others to it. The ridge pulls towards reuse of the newest anchor.

    Args:
        gram: (T, T).
        anchors: evaluations, oldest first.
        t: the predicted evaluation.
        ridge: share of each difference's power that is added to it.

    Returns:
        (len(anchors),).
    """
    *older, newest = anchors
    if not older:
        return np.ones(1)

    def product(i: NDArray[np.int64], j: NDArray[np.int64]) -> Floats:
        """Mean of (z_i - z_newest) * (z_j - z_newest)."""
        found: Floats = gram[i, j] - gram[i, newest] - gram[newest, j] + gram[newest, newest]
        return found

    rows = np.asarray(older)
    A = product(rows[:, None], rows[None, :])
    power = np.diag(A).copy()
    A = A + np.diag(ridge * power + _TINY)
    b = product(rows, np.asarray(t))
    found = np.linalg.lstsq(A, b, rcond=None)[0]
    found *= min(1.0, _LARGEST / max(np.abs(found).max(), abs(1.0 - found.sum()), 1.0))
    return np.append(found, 1.0 - found.sum())


def error(gram: Floats, anchors: Sequence[int], t: int, weights: Sequence[float] | Floats) -> float:
    """The mean squared error of `sum_i w_i z_i` to `z_t`, whatever the weights sum to."""
    places, w = [*anchors, t], np.append(np.asarray(weights, np.float64), -1.0)
    return max(float(w @ gram[np.ix_(places, places)] @ w), 0.0)


def table(
    gram: Floats, anchors: Sequence[int], order: int = 1, ridge: float = RIDGE
) -> dict[int, dict[int, float]]:
    """Fitted weights of every evaluation between and after the anchors, as `Fitted` has them.

    Args:
        gram: (T, T).
        anchors: computed evaluations, beginning with 0.
        order: `order + 1` anchors are read, fewer while there are fewer.
        ridge: as in `weights`.
    """
    found: dict[int, dict[int, float]] = {}
    for t in range(len(gram)):
        before = last_before(t, anchors, order + 1)
        if t not in anchors and before:
            w = weights(gram, before, t, ridge)
            found[t] = {a: float(x) for a, x in zip(before, w, strict=True)}
    return found


def slopes(gram: Floats, ridge: float = RIDGE) -> Floats:
    """(T, T, T), `[a, b, t]`: the fitted share of z_b - z_a that, added to z_b, predicts z_t; 0 for a = b."""
    power = np.diag(gram)
    apart = np.maximum(power[:, None] + power[None, :] - 2.0 * gram, 0.0)
    # Mean of (z_b - z_a) * (z_t - z_b).
    ahead = gram[None, :, :] - gram[:, None, :] - power[None, :, None] + gram[:, :, None]
    found = ahead / ((1.0 + ridge) * apart + _TINY)[:, :, None]
    found[np.arange(len(gram)), np.arange(len(gram))] = 0.0
    return np.clip(found, 1.0 - _LARGEST, _LARGEST - 1.0)


def line_slopes(taus: Sequence[float] | Floats) -> Floats:
    """As `slopes`, of the line through both anchors on a clock (order 1 of `newton` and `taylor`)."""
    tau = np.asarray(taus, np.float64)
    gap = tau[None, :] - tau[:, None]
    safe = np.where(gap == 0.0, np.inf, gap)
    found: Floats = (tau[None, None, :] - tau[None, :, None]) / safe[:, :, None]
    return found


def slope_errors(gram: Floats, slopes: Floats) -> Floats:
    """(T, T, T), `[a, b, t]`: the mean squared error at t of z_b + slope * (z_b - z_a)."""
    power = np.diag(gram)
    apart = power[:, None] + power[None, :] - 2.0 * gram
    ahead = gram[None, :, :] - gram[:, None, :] - power[None, :, None] + gram[:, :, None]
    found = apart[None, :, :] - 2.0 * slopes * ahead + slopes**2 * apart[:, :, None]
    return np.maximum(found, 0.0)


def pair_errors(gram: Floats, ridge: float = RIDGE) -> Floats:
    """(T, T, T), `[a, b, t]`: the mean squared error of predicting t from a and b, fitted; reuse for a = b.

    What `dcache.schedulers.planners.algorithms.pair_partition` plans with.
    """
    return slope_errors(gram, slopes(gram, ridge))


def combination(predictor: Weighted, anchors: Sequence[int], taus: Sequence[float], t: int) -> Floats:
    """(T,): what a fixed predictor adds up to predict t, as weights of all evaluations.

    Args:
        predictor: one of `dcache.predictors`.
        anchors: computed evaluations, oldest first; those at or after t are not read.
        taus: clock value of every evaluation.
        t: the predicted evaluation; an anchor stands for itself.

    Raises:
        DcacheError: there is no anchor before it.
    """
    found = np.zeros(len(taus))
    if t in anchors:
        found[t] = 1.0
        return found
    before = last_before(t, anchors, predictor.order + 1)
    if not before:
        raise DcacheError(f"evaluation {t} has nothing to predict from: the anchors are {list(anchors)}")
    if len(before) == 1:
        found[before] = 1.0
        return found
    w = predictor.weights([taus[a] for a in before], before, taus[t])
    found[before] = w[: len(before)]
    if predictor.forecasts:
        # The entry before the newest anchor is a prediction itself, unless it was computed.
        found += w[-1] * combination(predictor, [a for a in anchors if a < before[-1]], taus, before[-1] - 1)
    return found


def predicted_error(
    gram: Floats, predictor: Weighted, anchors: Sequence[int], taus: Sequence[float], t: int
) -> float:
    """The mean squared error at t of a fixed predictor (reuse, newton, taylor, ...), from the Gram matrix.

    Args:
        gram: (T, T).
        predictor: one of `dcache.predictors`.
        anchors: computed evaluations, oldest first.
        taus: clock value of every evaluation.
        t: the predicted evaluation.

    Raises:
        DcacheError: there is no anchor before it.
    """
    mixed = combination(predictor, anchors, taus, t)
    return error(gram, range(len(gram)), t, mixed)


def reached(errors: Floats, anchors: Iterable[int]) -> Floats:
    """(T,): each evaluation's error under a plan, from a table `[a, b, t]`; 0 where it is computed."""
    chosen = sorted(anchors)
    found = np.zeros(len(errors))
    for t in range(len(errors)):
        before = last_before(t, chosen, 2)
        if t not in chosen and before:
            found[t] = errors[before[0], before[-1], t]
    return found
