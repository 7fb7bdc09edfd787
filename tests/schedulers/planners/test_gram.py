"""Errors and weights from a Gram matrix equal those of the features themselves."""

import numpy as np
import pytest

from dcache import predictors
from dcache.errors import DcacheError
from dcache.predictors.fitted import Fitted
from dcache.schedulers.planners.gram import (
    combination,
    errors_under_plan,
    line_slopes,
    pair_errors,
    predicted_error,
    slope_errors,
    slopes,
    table,
    weights,
)
from dcache.schedulers.planners.gram import error as quadratic

T, N = 9, 40


def features(seed: int = 0) -> np.ndarray:
    """A smooth curve with noise, (T, N)."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, T)[:, None]
    curve = sum(rng.standard_normal((1, N)) * t**k for k in range(3))
    return curve + 0.1 * rng.standard_normal((T, N))


def gram_of(z: np.ndarray) -> np.ndarray:
    return z @ z.T / z.shape[1]


def constrained(z: np.ndarray, anchors: tuple[int, ...], t: int) -> np.ndarray:
    """Lagrange's equations, solved on the features."""
    k = len(anchors)
    A = np.zeros((k + 1, k + 1))
    A[:k, :k] = 2 * z[list(anchors)] @ z[list(anchors)].T
    A[:k, k] = A[k, :k] = 1.0
    return np.linalg.solve(A, np.append(2 * z[list(anchors)] @ z[t], 1.0))[:k]


@pytest.mark.parametrize("anchors", [(2,), (0, 2), (1, 4), (0, 2, 5), (1, 3, 4, 6)])
@pytest.mark.parametrize("t", [7, 8])
def test_the_weights_are_the_best_that_sum_to_one(anchors: tuple[int, ...], t: int) -> None:
    z = features()
    found = weights(gram_of(z), anchors, t, ridge=0.0)
    np.testing.assert_allclose(found, constrained(z, anchors, t), atol=1e-9)
    # The same, as least squares on differences to the newest anchor.
    *older, newest = anchors
    if older:
        free = np.linalg.lstsq((z[older] - z[newest]).T, z[t] - z[newest], rcond=None)[0]
        np.testing.assert_allclose(found[:-1], free, atol=1e-9)
    assert found.sum() == pytest.approx(1.0)
    mse = ((found @ z[list(anchors)] - z[t]) ** 2).mean()
    assert quadratic(gram_of(z), anchors, t, found) == pytest.approx(mse)


def test_pair_errors_are_those_of_the_features() -> None:
    z = features(1)
    found, s = pair_errors(gram_of(z), ridge=0.0), slopes(gram_of(z), ridge=0.0)
    for a in range(T):
        for b in range(a, T):
            for t in range(b + 1, T):
                w = np.ones(1) if a == b else constrained(z, (a, b), t)
                mixed = w @ z[[b] if a == b else [a, b]]
                assert found[a, b, t] == pytest.approx(((mixed - z[t]) ** 2).mean(), abs=1e-12)
                assert s[a, b, t] == pytest.approx(0.0 if a == b else -w[0], abs=1e-9)


@pytest.mark.parametrize("ridge", [0.01, 1.0, 1e6])
def test_the_ridge_pulls_towards_reuse_and_never_helps_here(ridge: float) -> None:
    gram = gram_of(features(2))
    plain, pulled = (slopes(gram, r) for r in (0.0, ridge))
    np.testing.assert_allclose(pulled * (1 + ridge), plain, atol=1e-12)
    assert (pair_errors(gram, ridge) >= pair_errors(gram, 0.0) - 1e-12).all()
    np.testing.assert_allclose(weights(gram, (0, 3), 5, ridge)[0], -pulled[0, 3, 5])


def test_a_straight_trajectory_is_met_exactly() -> None:
    rng = np.random.default_rng(3)
    clock = np.cumsum(rng.random(T) + 0.1)
    z = rng.standard_normal(N) + clock[:, None] * rng.standard_normal(N)
    gram = gram_of(z)
    upper = np.triu(np.ones((T, T), bool), 1)
    assert pair_errors(gram, 0.0)[upper].max() < 1e-9 * gram.max()
    np.testing.assert_allclose(slopes(gram, 0.0)[upper], line_slopes(clock)[upper], atol=1e-6)
    assert slope_errors(gram, line_slopes(clock))[upper].max() < 1e-9 * gram.max()
    # The step clock is another: its line misses.
    assert slope_errors(gram, line_slopes(range(T)))[0, 2, 6] > 1e-3


def test_anchors_that_are_the_same_are_reused() -> None:
    z = features(4)
    z[3] = z[1]
    gram = gram_of(z)
    assert weights(gram, (1, 3), 6).sum() == pytest.approx(1.0)
    assert np.abs(slopes(gram)).max() <= 98.0
    assert pair_errors(gram)[1, 3, 6] == pytest.approx(((z[3] - z[6]) ** 2).mean())
    assert np.abs(weights(gram, (1, 3, 4), 6)).max() < 99.5


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("reuse", {}),
        ("newton", {"order": 1}),
        ("newton", {"order": 2}),
        ("taylor", {"order": 2}),
        ("linear", {}),
        ("hermite", {"order": 2}),
        ("foca", {}),
    ],
)
def test_a_fixed_predictor_is_run_by_hand(name: str, parameters: dict[str, int]) -> None:
    z, anchors = features(5), (0, 1, 4, 6)
    predictor = predictors.make(name, parameters)
    taus = [1.5 * t for t in range(T)] if name != "foca" else [float(t) for t in range(T)]
    forecast: np.ndarray | None = None
    entries: list[np.ndarray] = []
    for t in range(T):
        if t in anchors:
            forecast = entries[-1] if entries else None
            entries.append(z[t])
            continue
        before = [a for a in anchors if a < t][-(predictor.order + 1) :]
        w = predictor.weights([taus[a] for a in before], before, taus[t])
        read = [z[a] for a in before] + ([forecast] if predictor.forecasts else [])
        entries.append(sum(x * y for x, y in zip(w, read, strict=True)))
        expected = ((entries[-1] - z[t]) ** 2).mean()
        assert predicted_error(gram_of(z), predictor, anchors, taus, t) == pytest.approx(expected)


def test_the_table_is_what_fitted_takes() -> None:
    gram, anchors = gram_of(features(6)), (0, 2, 5)
    rows = table(gram, anchors)
    assert sorted(rows) == [1, 3, 4, 6, 7, 8]
    assert rows[1] == {0: 1.0}
    assert list(rows[8]) == [2, 5]
    assert list(table(gram, anchors, order=2)[8]) == [0, 2, 5]
    fitted = Fitted({"*": rows})
    assert fitted.weights([2.0, 5.0], [2, 5], 7.0) == list(rows[7].values())
    three = sum(
        quadratic(gram, (0, 2, 5), t, list(table(gram, anchors, 2, 0.0)[t].values())) for t in (6, 7, 8)
    )
    two = sum(quadratic(gram, (2, 5), t, list(table(gram, anchors, 1, 0.0)[t].values())) for t in (6, 7, 8))
    assert three < two
    errors = pair_errors(gram)
    expected = [0, errors[0, 0, 1], 0, errors[0, 2, 3], errors[0, 2, 4], 0, *errors[2, 5, 6:]]
    np.testing.assert_allclose(errors_under_plan(errors, anchors), expected)
    assert [quadratic(gram, list(r), t, list(r.values())) for t, r in rows.items()] == pytest.approx(
        [errors[0, 0, 1], errors[0, 2, 3], errors[0, 2, 4], *errors[2, 5, 6:]]
    )


def test_what_comes_before_all_anchors_is_refused() -> None:
    with pytest.raises(DcacheError, match="evaluation 1 has no anchor to predict from"):
        combination(predictors.Reuse(), (3, 5), list(range(T)), 1)
