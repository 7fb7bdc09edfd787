"""Predictors by name and parameters."""

import pytest

from dcache.errors import DcacheError
from dcache.methods.replay import replay
from dcache.predictors import Chebyshev, Foca, Hermite, Linear, Newton, Reuse, Taylor, make, register
from dcache.schedule import Schedule


@pytest.mark.parametrize(
    "predictor",
    [
        *(Reuse(), Newton(0), Newton(3), Taylor(2, since=4), Foca()),
        *(Chebyshev(), Chebyshev(2, 0.0, 1.0, steps=20, order=7)),
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


class Mean(Reuse):
    """The mean of the last two anchors."""

    name = "mean_of_two"
    order = 1

    def weights(self, taus, steps, tau):
        return [0.5, 0.5] if len(taus) > 1 else [1.0]


def test_a_registered_predictor_is_known_to_schedules():
    register("mean_of_two", Mean)
    # Once more is no error.
    register("mean_of_two", Mean)
    assert isinstance(make("mean_of_two", {}), Mean)
    plan = Schedule.of_steps([0, 1], 4, predictor="mean_of_two")
    assert replay(plan).predictor.weights([0.0, 1.0], [0, 1], 2.0) == [0.5, 0.5]


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(DcacheError, match="a predictor named 'newton' is registered already"):
        register("newton", Mean)
    assert make("newton", {"order": 2}) == Newton(2)
