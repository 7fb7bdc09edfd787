"""What a method gives up to hold less."""

from __future__ import annotations

from dcache.engine.degrade import lowered
from dcache.predictors import Foca, Newton, Reuse, Taylor
from dcache.predictors.fitted import Fitted


def test_a_lower_order_is_the_same_predictor_with_fewer_anchors() -> None:
    assert lowered(Newton(3), 2) == Newton(2)
    assert lowered(Taylor(2, since=4), 1) == Taylor(1, since=4)
    assert lowered(Newton(2), 2) == Newton(2)
    assert lowered(Newton(2), 0) == Reuse()
    assert lowered(Foca(), 0) == Reuse()
    fitted = Fitted({"trunk": {4: {0: 0.5, 1: -0.5, 3: 1.0}, 5: {1: -1.0, 3: 2.0}, 6: {3: 1.0}}})
    assert lowered(fitted, 1) == Fitted({"trunk": {5: {1: -1.0, 3: 2.0}, 6: {3: 1.0}}})
    assert lowered(fitted, 0) == Reuse()
