"""Predictors by name and parameters."""

import pytest

from dcache.errors import DcacheError
from dcache.predictors import Foca, Hermite, Linear, Newton, Reuse, Taylor, make


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
