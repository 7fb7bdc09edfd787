"""Predictors against the published numbers, the published recursion and exact polynomials."""

import math
from math import factorial

import numpy as np
import pytest

from dcache.engine.weight_cache import Lately
from dcache.errors import DcacheError
from dcache.predictors import MAX_ORDER, Foca, Hermite, Linear, Newton, Reuse, Taylor, make

ANCHORS = [0, 4, 8, 12, 16, 20]

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


def forecast(predictor, taus, values, tau, steps=None):
    weights = predictor.weights(taus, steps if steps is not None else taus, tau)
    return sum(w * v for w, v in zip(weights, values, strict=True))


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


@pytest.mark.parametrize("degree", range(5))
def test_newton_misses_by_nothing_where_taylor_does(degree):
    values = [float(t**degree) for t in ANCHORS]
    for k in (1, 2, 3):
        assert forecast(Newton(degree), ANCHORS, values, 20 + k) == pytest.approx(
            (20 + k) ** degree, abs=1e-6
        )


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


@pytest.mark.parametrize("predictor", [Reuse(), *map(Newton, range(4)), *map(Taylor, range(4)), Taylor(2, 3)])
def test_weights_sum_to_one_and_ramp_up(predictor):
    taus, steps = [0.0, 1.0, 3.5, 4.0, 9.0], [0, 1, 2, 3, 4]
    for n in range(1, 6):
        weights = predictor.weights(taus[:n], steps[:n], 11.0)
        assert len(weights) == n
        assert sum(weights) == pytest.approx(1)
        assert sum(w != 0 for w in weights) <= min(predictor.order + 1, n)
    at_anchor = predictor.weights(taus, steps, taus[-1])
    assert at_anchor == pytest.approx([0, 0, 0, 0, 1])


@pytest.mark.parametrize("predictor", [Newton(2), Taylor(2)])
def test_with_two_anchors_every_order_is_a_line(predictor):
    assert predictor.weights([0.0, 2.0], [0, 1], 3.0) == pytest.approx([-0.5, 1.5])
    assert predictor.weights([5.0], [0], 3.0) == [1.0]


@pytest.mark.parametrize("maker", [Newton, Taylor])
def test_of_equal_clock_values_only_the_newest_counts(maker):
    weights = maker(1).weights([0.0, 1.0, 1.0], [0, 1, 2], 2.0)
    assert weights == pytest.approx([-1, 0, 2])
    assert maker(2).weights([1.0, 1.0, 1.0], [0, 1, 2], 2.0) == [0.0, 0.0, 1.0]
    assert maker(1).weights([0.0, 0.0, 1.0], [0, 1, 2], 2.0) == pytest.approx([0, -1, 2])


def test_newton_also_ignores_older_repeats():
    # A second-order sampler goes back: 3, 2, 3 again.
    assert Newton(2).weights([3.0, 2.0, 3.0], [0, 1, 2], 1.0) == pytest.approx([0, 2, -1])


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


def test_linear_goes_on_by_a_share_of_the_last_difference():
    assert Linear(0.5).weights([0.0, 2.0], [0, 1], 3.0) == [-0.5, 1.5]
    assert Linear(0.25).weights([0.0, 2.0], [0, 1], 9.0) == [-0.25, 1.25]
    # Every other evaluation computed: a line is continued exactly; every third: not.
    assert forecast(Linear(0.5), [4, 6], [4.0, 6.0], 7) == 7
    assert forecast(Linear(0.5), [3, 6], [3.0, 6.0], 7) == 7.5


def foca_entries(full, steps):
    """The published recursion on the line y = t: entries, computed where `full` says so."""
    entries, anchors = [], []
    for t in range(steps):
        if t in full:
            entries.append(float(t))
            anchors.append(float(t))
        else:
            f, before = entries[-1], entries[-2]
            entries.append(2 * f - before + 0.5 * ((anchors[-1] - anchors[-2]) - (f - before)))
    return entries


def test_foca_unfolds_the_published_recursion():
    full, line = (0, 1, 4, 8), [float(t) for t in range(12)]
    expected = foca_entries(full, 12)
    entries = []
    for t in range(12):
        taus = [s for s in full if s <= t][-2:]
        if t in full:
            entries.append(line[t])
            continue
        weights = Foca().weights(taus, taus, t)
        held = [line[s] for s in taus] + [entries[taus[-1] - 1]]
        entries.append(sum(w * z for w, z in zip(weights, held, strict=True)))
    assert entries == pytest.approx(expected)
    errors = {t: entries[t] - t for t in (2, 3, 5, 6, 7, 9, 10, 11)}
    assert errors == {2: 0, 3: 0, 5: 1, 6: 2.5, 7: 4.25, 9: -0.625, 10: 0.5625, 11: 2.65625}


def test_focas_weights_sum_to_one_and_are_those_of_its_anchor_there():
    for k in (1, 2, 5):
        assert sum(Foca().weights([3.0, 7.0], [3, 7], 7.0 + k)) == pytest.approx(1)
    assert Foca().weights([3.0, 7.0], [3, 7], 7.0) == [0.0, 1.0, 0.0]
    assert Foca().forecasts
    assert not any(p.forecasts for p in (Reuse(), Newton(), Taylor(), Linear(), Hermite()))


def test_predictors_do_not_touch_their_arguments():
    for predictor in (Reuse(), Newton(2), Taylor(2), Linear(), Hermite(2), Foca()):
        taus, steps = [0.0, 1.0, 3.0], [0, 1, 2]
        first = predictor.weights(taus, steps, 4.0)
        assert (taus, steps) == ([0.0, 1.0, 3.0], [0, 1, 2])
        assert predictor.weights(tuple(taus), tuple(steps), 4.0) == first


@pytest.mark.parametrize("maker", [Newton, Taylor, Hermite])
@pytest.mark.parametrize("order", [-1, MAX_ORDER + 1, 1.0, "1", True, None, [1]])
def test_bad_orders_are_refused(maker, order):
    with pytest.raises(DcacheError, match=f"from 0 to {MAX_ORDER}"):
        maker(order)


@pytest.mark.parametrize("since", [-1, 1.5, "2", True, None])
def test_bad_since_is_refused(since):
    with pytest.raises(DcacheError, match="since"):
        Taylor(1, since)
    with pytest.raises(DcacheError, match="since"):
        Hermite(1, since=since)


@pytest.mark.parametrize("wrong", [0, -0.5, math.nan, "0.5", True, None])
def test_bad_scales_and_weights_are_refused(wrong):
    with pytest.raises(DcacheError, match="scale"):
        Hermite(1, wrong)
    if wrong not in {0, -0.5}:
        with pytest.raises(DcacheError, match="weight"):
            Linear(wrong)


@pytest.mark.parametrize(
    "predictor",
    [
        *(Reuse(), Newton(0), Newton(3), Taylor(2, since=4), Foca()),
        *(Linear(), Linear(0.75), Hermite(), Hermite(3, 0.7, since=2)),
    ],
)
def test_make_rebuilds_from_name_and_parameters(predictor):
    assert make(predictor.name, predictor.parameters()) == predictor


@pytest.mark.parametrize(
    ("name", "parameters", "says"),
    [
        ("neuton", {}, "reuse, newton, taylor, linear, hermite, foca"),
        ("linear", {"order": 2}, "order"),
        ("hermite", {"scale": 0}, "scale"),
        ("foca", {"order": 1}, "order"),
        ("newton", {"orders": 1}, "orders"),
        ("newton", {"name": "reuse"}, "name"),
        ("reuse", {"order": 2}, "order"),
        ("reuse", {"name": "x"}, "name"),
        ("taylor", {"since": "early"}, "since"),
    ],
)
def test_make_refuses_what_it_does_not_know(name, parameters, says):
    with pytest.raises(DcacheError, match=says):
        make(name, parameters)


def test_weights_asked_for_lately_are_those_of_the_predictor_now() -> None:
    lately, taus, steps = Lately(), [0.0, 4.0], [0, 4]
    line, curve = Newton(1), Taylor(1, since=5)
    for tau in (6.0, 6.0, 8.0):
        assert lately.weights(line, taus, steps, tau) == line.weights(taus, steps, tau)
    assert lately.weights(line, taus, steps, 8.0) is lately.weights(line, list(taus), list(steps), 8.0)
    assert lately.weights(curve, taus, steps, 8.0) == curve.weights(taus, steps, 8.0)
    # A history's own lists, which grow; the same clock with other steps.
    del taus[0], steps[0]
    taus.append(5.0)
    steps.append(5)
    assert lately.weights(curve, taus, steps, 8.0) == curve.weights(taus, steps, 8.0)
    assert lately.weights(curve, taus, [3, 4], 8.0) == curve.weights(taus, [3, 4], 8.0)
