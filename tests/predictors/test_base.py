"""What all predictors have in common."""

import pytest

from dcache.errors import DcacheError
from dcache.predictors import MAX_ORDER, Foca, Hermite, Linear, Newton, Reuse, Taylor
from dcache.predictors.base import check_order


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


@pytest.mark.parametrize("predictor", [Reuse(), Newton(2), Taylor(1), Linear(), Hermite(), Foca()])
def test_they_are_the_same_at_every_site(predictor):
    assert predictor.at("trunk") is predictor
    assert predictor.at("mlp.context:3") is predictor


def test_orders_from_none_to_the_highest_pass():
    for order in range(MAX_ORDER + 1):
        check_order(order)
    with pytest.raises(DcacheError, match=f"from 0 to {MAX_ORDER}, got {MAX_ORDER + 1}"):
        check_order(MAX_ORDER + 1)
