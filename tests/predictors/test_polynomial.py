"""Newton and the fixed line against exact polynomials."""

import math

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.predictors import Hermite, Linear, Newton, Reuse
from tests.predictors.forecasting import ANCHORS, forecast


@pytest.mark.parametrize("degree", range(5))
def test_newton_misses_by_nothing_where_taylor_does(degree):
    values = [float(t**degree) for t in ANCHORS]
    for k in (1, 2, 3):
        assert forecast(Newton(degree), ANCHORS, values, 20 + k) == pytest.approx(
            (20 + k) ** degree, abs=1e-6
        )


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("falling", [False, True])
def test_newton_is_exact_on_its_degree_at_any_gaps_and_clocks(order, falling):
    random = np.random.default_rng(10 * order + falling)
    for _ in range(20):
        taus = (random.normal() * 5 + np.cumsum(random.uniform(0.2, 2, order + 4))).tolist()
        if falling:
            taus.reverse()
        polynomial = np.polynomial.Polynomial(random.normal(size=order + 1))
        *anchors, now = taus
        found = forecast(
            Newton(order), anchors, [polynomial(t) for t in anchors], now, list(range(len(anchors)))
        )
        assert found == pytest.approx(polynomial(now), rel=1e-8, abs=1e-8)


def test_newton_also_ignores_older_repeats():
    # A second-order sampler goes back: 3, 2, 3 again.
    assert Newton(2).weights([3.0, 2.0, 3.0], [0, 1, 2], 1.0) == pytest.approx([0, 2, -1])


def test_linear_goes_on_by_a_share_of_the_last_difference():
    assert Linear(0.5).weights([0.0, 2.0], [0, 1], 3.0) == [-0.5, 1.5]
    assert Linear(0.25).weights([0.0, 2.0], [0, 1], 9.0) == [-0.25, 1.25]
    # Every other evaluation computed: a line is continued exactly; every third: not.
    assert forecast(Linear(0.5), [4, 6], [4.0, 6.0], 7) == 7
    assert forecast(Linear(0.5), [3, 6], [3.0, 6.0], 7) == 7.5


@pytest.mark.parametrize("wrong", [0, -0.5, math.nan, "0.5", True, None])
def test_bad_scales_and_weights_are_refused(wrong):
    with pytest.raises(DcacheError, match="scale"):
        Hermite(1, wrong)
    if wrong not in {0, -0.5}:
        with pytest.raises(DcacheError, match="weight"):
            Linear(wrong)


@pytest.mark.parametrize("tau", [3.0, 3.5, 100.0, -7.0])
def test_reuse_is_the_newest_anchor_whenever_it_is_asked(tau):
    assert Reuse().weights([0.0, 1.0, 3.0], [0, 1, 3], tau) == [0.0, 0.0, 1.0]
    assert Reuse().weights([2.0], [2], tau) == [1.0]


def test_a_line_needs_two_anchors():
    assert Linear(0.5).weights([2.0], [2], 9.0) == [1.0]
    assert Newton(1).weights([2.0], [2], 9.0) == [1.0]
