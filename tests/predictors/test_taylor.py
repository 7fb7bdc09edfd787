"""Taylor and Hermite against the published numbers and the published recursion."""

from math import factorial

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.predictors import MAX_ORDER, Hermite, Taylor
from tests.predictors.forecasting import ANCHORS, forecast

# Forecast minus truth of t^d at 20 + k, k = 1, 2, 3, by degree d and order m (methods-diffusion.md, 6.1).
TAYLOR_ERRORS = {
    0: {0: (0, 0, 0), 1: (0, 0, 0), 2: (0, 0, 0), 3: (0, 0, 0), 4: (0, 0, 0)},
    1: {0: (-1, -2, -3), 1: (0, 0, 0), 2: (0, 0, 0), 3: (0, 0, 0), 4: (0, 0, 0)},
    2: {0: (-41, -84, -129), 1: (-5, -12, -21), 2: (-4, -8, -12), 3: (-4, -8, -12), 4: (-4, -8, -12)},
    3: {
        0: (-1261, -2648, -4167),
        1: (-285, -696, -1239),
        2: (-237, -504, -807),
        3: (-236, -496, -780),
        4: (-236, -496, -780),
    },
    4: {
        0: (-34481, -74256, -119841),
        1: (-10865, -27024, -48993),
        2: (-9313, -20816, -35025),
        3: (-9257, -20368, -33513),
        4: (-9256, -20352, -33432),
    },
}


def published(taus, steps, values, tau, order, since):
    """The reference code's recursion on the values themselves, anchor by anchor."""
    factors, before = [], None
    for a, (t, step, y) in enumerate(zip(taus, steps, values, strict=True)):
        new = {0: y}
        for i in range(order):
            if factors and factors[-1].get(i) is not None and step > since - 1 and a:
                new[i + 1] = (new[i] - factors[-1][i]) / (t - before)
            else:
                break
        factors.append(new)
        before = t
    k = tau - taus[-1]
    return sum(f * k**i / factorial(i) for i, f in factors[-1].items())


@pytest.mark.parametrize("degree", TAYLOR_ERRORS)
@pytest.mark.parametrize("order", range(5))
def test_taylor_misses_by_the_published_numbers(degree, order):
    values = [float(t**degree) for t in ANCHORS]
    errors = [forecast(Taylor(order), ANCHORS, values, 20 + k) - (20 + k) ** degree for k in (1, 2, 3)]
    assert errors == pytest.approx(TAYLOR_ERRORS[degree][order], abs=1e-6)


def test_taylor_on_uneven_anchors():
    anchors = [0, 1, 2, 8, 14]
    squares = [float(t * t) for t in anchors]
    errors = [forecast(Taylor(2), anchors, squares, 14 + k) - (14 + k) ** 2 for k in (1, 2, 3)]
    assert errors == pytest.approx([-6, -12, -18])
    lines = [3.0 * t - 7 for t in anchors]
    assert forecast(Taylor(1), anchors, lines, 19) == pytest.approx(3 * 19 - 7)
    # After anchor 8 the factors are (64, 10, 7/6), so k = 1, 2 give these.
    for k in (1, 2):
        assert forecast(Taylor(2), anchors[:4], squares[:4], 8 + k) == pytest.approx(
            64 + 10 * k + 7 / 12 * k**2
        )


@pytest.mark.parametrize("order", range(MAX_ORDER + 1))
def test_taylor_is_the_published_recursion(order):
    random = np.random.default_rng(order)
    for _ in range(20):
        n = int(random.integers(1, 7))
        steps = sorted(random.choice(40, n, replace=False).tolist())
        taus = np.cumsum(random.uniform(0.5, 3, n)).tolist()
        values = random.normal(size=n).tolist()
        since = int(random.integers(0, 40))
        expected = published(taus, steps, values, taus[-1] + 1.5, order, since)
        assert forecast(Taylor(order, since), taus, values, taus[-1] + 1.5, steps) == pytest.approx(expected)


def test_taylor_since_forms_no_difference_before_it():
    assert Taylor(1, since=2).weights([0.0, 1.0], [0, 1], 2.0) == [0.0, 1.0]
    assert Taylor(1, since=2).weights([1.0, 2.0], [1, 2], 3.0) == [-1.0, 2.0]
    # The difference at step 2 is the first there is, so order 2 starts one anchor later.
    assert Taylor(2, since=2).weights([0, 1, 2], [0, 1, 2], 3) == Taylor(1).weights([0, 1, 2], [0, 1, 2], 3)


def hermite(i, x):
    """H_0 = 1, H_1 = 2x, H_2 = 4x^2 - 2, H_3 = 8x^3 - 12x, H_4 = 16x^4 - 48x^2 + 12."""
    return [1, 2 * x, 4 * x**2 - 2, 8 * x**3 - 12 * x, 16 * x**4 - 48 * x**2 + 12][i]


@pytest.mark.parametrize(
    ("scale", "errors"), [(0.5, (0, -0.5, -1, -1.5)), (0.5**0.5, (0, 0, 0, 0)), (1.0, (0, 1, 2, 3))]
)
def test_hermite_of_order_one_has_twice_its_scale_squared_of_a_lines_slope(scale, errors):
    found = [forecast(Hermite(1, scale), [0, 4], [0.0, 4.0], 4 + k) - (4 + k) for k in range(4)]
    assert found == pytest.approx(errors, abs=1e-12)


@pytest.mark.parametrize("scale", [0.5, 0.7, 1.3])
def test_hermite_of_order_two_does_not_pass_through_its_anchor(scale):
    # t^2 at 0, 4, 8: the nested differences at the newest anchor are 12 and 2.
    squares = [0.0, 16.0, 64.0]
    f2 = ((64 - 16) / 4 - (16 - 0) / 4) / 4
    assert f2 == 2
    assert forecast(Hermite(2, scale), [0, 4, 8], squares, 8) - 64 == pytest.approx(-(scale**2) * f2)


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("scale", [0.3, 0.5, 0.9])
def test_hermite_is_taylors_factors_under_scaled_polynomials(order, scale):
    random = np.random.default_rng(order)
    steps = [0, 1, 2, 5, 9, 12]
    values = random.normal(size=6).tolist()
    factors, before = [], None
    for t, y in zip(steps, values, strict=True):
        new = [y]
        for i in range(min(order, len(factors))):
            new.append((new[i] - factors[i]) / (t - before))
        factors, before = new, t
    for k in (0, 1, 2.5):
        expected = sum(f * scale**i * hermite(i, scale * k) / factorial(i) for i, f in enumerate(factors))
        assert forecast(Hermite(order, scale), steps, values, 12 + k) == pytest.approx(expected)


def test_hermite_needs_as_many_anchors_as_taylor():
    assert Hermite(2).weights([5.0], [0], 9.0) == [1.0]
    assert Hermite(1, 0.5**0.5).weights([0.0, 4.0], [0, 1], 6.0) == pytest.approx([-0.5, 1.5])
    assert Hermite(1, since=2).weights([0.0, 1.0], [0, 1], 2.0) == [0.0, 1.0]


@pytest.mark.parametrize("since", [-1, 1.5, "2", True, None])
def test_bad_since_is_refused(since):
    with pytest.raises(DcacheError, match="since"):
        Taylor(1, since)
    with pytest.raises(DcacheError, match="since"):
        Hermite(1, since=since)
