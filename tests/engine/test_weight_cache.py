"""The last weights that were asked for are those of the predictor now."""

from dcache.engine.weight_cache import WeightCache
from dcache.predictors import Newton, Taylor


def test_weights_asked_for_lately_are_those_of_the_predictor_now() -> None:
    lately, taus, steps = WeightCache(), [0.0, 4.0], [0, 4]
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
