"""Spectrum's fit: exact where it must be, by hand where a ridge draws it off, and mixed with the line."""

from fractions import Fraction

import pytest

from dcache.errors import DcacheError
from dcache.predictors import Chebyshev, Newton, Taylor
from tests.predictors.forecasting import ANCHORS, forecast


@pytest.mark.parametrize("degree", range(7))
@pytest.mark.parametrize("tau", [21.0, 26.5, 40.0])
def test_without_a_ridge_the_fit_is_exact_on_polynomials_of_its_degree(degree, tau):
    taus = [float(t) for t in [*ANCHORS, 22]]

    def polynomial(t):
        x = t / 10
        return sum((-1) ** k * (k + 1) * x**k for k in range(degree + 1))

    values = [polynomial(t) for t in taus]
    found = forecast(Chebyshev(degree, ridge=0.0, blend=1.0), taus, values, tau)
    assert found == pytest.approx(polynomial(tau), rel=1e-6)


def test_without_a_ridge_more_anchors_than_terms_give_the_least_squares_line():
    # Through (0, 0), (1, 2), (2, 1): slope 1 / 2, mean 1 at 1, so 2 at 3.
    assert forecast(Chebyshev(1, 0.0, 1.0), [0, 1, 2], [0, 2, 1], 3) == pytest.approx(2)


def test_the_ridge_draws_every_coefficient_towards_zero():
    # Degree 0: the mean, with n + ridge in place of n: 3 (4 + 4) / (2 + 2), where the exact one is 12 / 2.
    assert Chebyshev(0, 2.0, 1.0).weights([0.0, 9.0], [0, 9], 20.0) == pytest.approx([0.25, 0.25])
    # x = -1 and 1 at 0 and 50: T_1 and T_0 are orthogonal, each with 2 + ridge; at x = 0 only T_0 is left,
    # at x = 1/2 the weights are (1 -+ 1/2) / 3.
    two = Chebyshev(1, 1.0, 1.0)
    assert two.weights([0.0, 50.0], [0, 50], 25.0) == pytest.approx([1 / 3, 1 / 3])
    assert two.weights([0.0, 50.0], [0, 50], 37.5) == pytest.approx([1 / 6, 1 / 2])


def test_t2_is_twice_the_square_less_one():
    # x = -1, 0, 1 has T_0 = 1 1 1, T_1 = -1 0 1, T_2 = 1 -1 1. Phi^T Phi + 1 is [[4, 0, 1], [0, 3, 0],
    # [1, 0, 4]], of inverse [[4, 0, -1], [0, 5, 0], [-1, 0, 4]] / 15. At x = 2, phi = (1, 2, 7):
    # (-3, 10, 27) / 15, and its products with the rows (1, -1, 1), (1, 0, -1), (1, 1, 1).
    found = Chebyshev(2, 1.0, 1.0, steps=20).weights([0.0, 10.0, 20.0], [0, 10, 20], 30.0)
    assert found == pytest.approx([float(Fraction(n, 15)) for n in (14, -30, 34)])


def test_the_blend_mixes_the_fit_with_the_line_through_the_last_two_anchors():
    taus, steps = [0.0, 3.0, 5.0, 6.0], [0, 3, 5, 6]
    fit = Chebyshev(blend=1.0).weights(taus, steps, 8.0)
    line = Newton(1).weights(taus, steps, 8.0)
    assert line == [0, 0, -2, 3]
    assert Chebyshev(blend=0.0).weights(taus, steps, 8.0) == line
    mixed = Chebyshev(blend=0.25).weights(taus, steps, 8.0)
    assert mixed == pytest.approx([0.25 * f + 0.75 * w for f, w in zip(fit, line, strict=True)])


def test_fewer_anchors_than_terms_are_fitted_with_fewer_terms():
    four = Chebyshev(4, 0.1, 1.0)
    taus, steps = [2.0, 5.0], [2, 5]
    assert four.weights(taus, steps, 9.0) == pytest.approx(Chebyshev(1, 0.1, 1.0).weights(taus, steps, 9.0))
    assert Chebyshev(4, 0.0, 1.0).weights([5.0], [5], 9.0) == [1.0]


def test_of_equal_clock_values_only_the_newest_counts():
    one, two = Chebyshev(), [0.0, 3.0, 3.0, 7.0]
    found = one.weights(two, [0, 1, 2, 3], 9.0)
    assert found[1] == 0.0
    assert [found[0], *found[2:]] == pytest.approx(one.weights([0.0, 3.0, 7.0], [0, 2, 3], 9.0))


def test_a_lower_order_is_the_same_fit_of_fewer_anchors():
    assert Chebyshev(3, 0.2, 1.0, 20, order=9).lowered(4) == Chebyshev(3, 0.2, 1.0, 20, order=4)
    assert (Chebyshev().order, Chebyshev().forecasts) == (15, False)
    assert not isinstance(Chebyshev().at("trunk"), Taylor)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"degree": 7}, "degree must be a whole number from 0 to 6, got 7"),
        ({"ridge": -1.0}, "ridge must be a number of at least 0"),
        ({"blend": 1.5}, "blend must be a share from 0 to 1, got 1.5"),
        ({"blend": float("nan")}, "blend must be a number of at least 0"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"order": -1}, "anchors must be a whole number of at least 1, got 0"),
    ],
)
def test_what_makes_no_fit_is_refused(options, says):
    with pytest.raises(DcacheError, match=says):
        Chebyshev(**options)
