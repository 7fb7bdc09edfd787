"""Errors and fitted weights of predictions from the Gram matrix of a site's features; pure numpy.

`gram[t, u]` is the mean of z_t * z_u over elements and pictures, (T, T). A prediction is a weighted sum of
anchors, so its mean squared error is a quadratic form in Gram entries. One observed run thus gives the error
of any predictor with any anchors, and the weights with the least error. Fitted weights are constrained to sum
to
one: unconstrained least squares shrinks the features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dcache.errors import DcacheError
from dcache.profile import Floats
from dcache.schedule.anchors import last_before

# Ridge, as a share of the power of the differences between anchors. Without it close anchors get huge
# weights.
RIDGE = 1e-3
# Largest weight: the limit of `dcache.predictors.fitted`, less a margin for rounding.
_LARGEST = 99.0
_TINY = np.finfo(np.float64).tiny


class Weighted(Protocol):
    """The part of `dcache.predictors.Predictor` that is used here."""

    @property
    def order(self) -> int:
        """It reads `order + 1` anchors."""
        ...

    @property
    def forecasts(self) -> bool:
        """True if it also reads the entry before the newest anchor, whose weight comes last."""
        ...

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """One weight per anchor."""
        ...


def weights(gram: Floats, anchors: Sequence[int], t: int, ridge: float = RIDGE) -> Floats:
    """The weights with the least mean squared error of `sum_i w_i z_i` to `z_t`, subject to `sum_i w_i = 1`.

    The newest anchor's weight is one minus the others, which leaves least squares on the differences of the
    others to it. The ridge pulls towards reuse of the newest anchor.

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
        products: Floats = gram[i, j] - gram[i, newest] - gram[newest, j] + gram[newest, newest]
        return products

    rows = np.asarray(older)
    A = product(rows[:, None], rows[None, :])
    power = np.diag(A).copy()
    A = A + np.diag(ridge * power + _TINY)
    b = product(rows, np.asarray(t))
    w = np.linalg.lstsq(A, b, rcond=None)[0]
    w *= min(1.0, _LARGEST / max(np.abs(w).max(), abs(1.0 - w.sum()), 1.0))
    return np.append(w, 1.0 - w.sum())


def error(gram: Floats, anchors: Sequence[int], t: int, weights: Sequence[float] | Floats) -> float:
    """The mean squared error of `sum_i w_i z_i` to `z_t`; the weights may have any sum."""
    places, w = [*anchors, t], np.append(np.asarray(weights, np.float64), -1.0)
    return max(float(w @ gram[np.ix_(places, places)] @ w), 0.0)


def table(
    gram: Floats, anchors: Sequence[int], order: int = 1, ridge: float = RIDGE
) -> dict[int, dict[int, float]]:
    """Fitted weights of every predicted evaluation.

    Args:
        gram: (T, T).
        anchors: computed evaluations, ascending from 0.
        order: `order + 1` anchors are read, fewer while there are fewer.
        ridge: as in `weights`.

    Returns:
        evaluation -> {evaluation of an anchor: its weight}, as in `Fitted`.
    """
    rows: dict[int, dict[int, float]] = {}
    for t in range(len(gram)):
        before = last_before(t, anchors, order + 1)
        if t not in anchors and before:
            w = weights(gram, before, t, ridge)
            rows[t] = {a: float(x) for a, x in zip(before, w, strict=True)}
    return rows


def slopes(gram: Floats, ridge: float = RIDGE) -> Floats:
    """(T, T, T), `[a, b, t]`: fitted slope s of the prediction z_b + s (z_b - z_a) of z_t; 0 if a = b."""
    power = np.diag(gram)
    # Mean of (z_b - z_a)^2.
    squared = np.maximum(power[:, None] + power[None, :] - 2.0 * gram, 0.0)
    # Mean of (z_b - z_a) * (z_t - z_b).
    product = gram[None, :, :] - gram[:, None, :] - power[None, :, None] + gram[:, :, None]
    fitted = product / ((1.0 + ridge) * squared + _TINY)[:, :, None]
    fitted[np.arange(len(gram)), np.arange(len(gram))] = 0.0
    return np.clip(fitted, 1.0 - _LARGEST, _LARGEST - 1.0)


def line_slopes(taus: Sequence[float] | Floats) -> Floats:
    """As `slopes`, but of the line through both anchors on a clock (order 1 of `newton` and `taylor`)."""
    tau = np.asarray(taus, np.float64)
    gap = tau[None, :] - tau[:, None]
    # An infinite gap makes the slope 0 for a = b.
    gap = np.where(gap == 0.0, np.inf, gap)
    line: Floats = (tau[None, None, :] - tau[None, :, None]) / gap[:, :, None]
    return line


def slope_errors(gram: Floats, slopes: Floats) -> Floats:
    """(T, T, T), `[a, b, t]`: the mean squared error at t of z_b + slope * (z_b - z_a)."""
    power = np.diag(gram)
    # Means of (z_b - z_a)^2 and of (z_b - z_a) * (z_t - z_b).
    squared = power[:, None] + power[None, :] - 2.0 * gram
    product = gram[None, :, :] - gram[:, None, :] - power[None, :, None] + gram[:, :, None]
    errors = squared[None, :, :] - 2.0 * slopes * product + slopes**2 * squared[:, :, None]
    return np.maximum(errors, 0.0)


def pair_errors(gram: Floats, ridge: float = RIDGE) -> Floats:
    """(T, T, T), `[a, b, t]`: mean squared error of the fitted prediction of t from a and b; reuse if a = b.

    The input of `dcache.schedulers.planners.algorithms.pair_partition`.
    """
    return slope_errors(gram, slopes(gram, ridge))


def combination(predictor: Weighted, anchors: Sequence[int], taus: Sequence[float], t: int) -> Floats:
    """(T,): the prediction of t as weights of all evaluations, for a predictor that is not fitted.

    Args:
        predictor: one of `dcache.predictors`.
        anchors: computed evaluations, ascending; those after t are not read.
        taus: clock value of every evaluation.
        t: the evaluation; an anchor has weight one on itself.

    Raises:
        DcacheError: there is no anchor before it.
    """
    mixed = np.zeros(len(taus))
    if t in anchors:
        mixed[t] = 1.0
        return mixed
    before = last_before(t, anchors, predictor.order + 1)
    if not before:
        raise DcacheError(f"evaluation {t} has no anchor to predict from: the anchors are {list(anchors)}")
    if len(before) == 1:
        mixed[before] = 1.0
        return mixed
    w = predictor.weights([taus[a] for a in before], before, taus[t])
    mixed[before] = w[: len(before)]
    if predictor.forecasts:
        # The entry before the newest anchor is itself a prediction, unless it was computed.
        mixed += w[-1] * combination(predictor, [a for a in anchors if a < before[-1]], taus, before[-1] - 1)
    return mixed


def predicted_error(
    gram: Floats, predictor: Weighted, anchors: Sequence[int], taus: Sequence[float], t: int
) -> float:
    """The mean squared error at t of a predictor that is not fitted (reuse, newton, taylor, ...).

    Args:
        gram: (T, T).
        predictor: one of `dcache.predictors`.
        anchors: computed evaluations, ascending.
        taus: clock value of every evaluation.
        t: the predicted evaluation.

    Raises:
        DcacheError: there is no anchor before it.
    """
    mixed = combination(predictor, anchors, taus, t)
    return error(gram, range(len(gram)), t, mixed)


def errors_under_plan(errors: Floats, anchors: Iterable[int]) -> Floats:
    """(T,): each evaluation's error under a plan, from a table `[a, b, t]`; 0 where it is computed."""
    ordered = sorted(anchors)
    by_step = np.zeros(len(errors))
    for t in range(len(errors)):
        before = last_before(t, ordered, 2)
        if t not in ordered and before:
            by_step[t] = errors[before[0], before[-1], t]
    return by_step
