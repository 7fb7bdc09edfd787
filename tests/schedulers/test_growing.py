"""Intervals that grow with every compute, by hand."""

import math

import pytest

from dcache.errors import DcacheError
from dcache.schedulers import Growing
from dcache.schedulers.growing import growing
from tests.rules import computed_steps, moment


def test_intervals_grow_by_as_much_at_every_compute():
    # After evaluations 0 and 1: intervals of 2, 2 (2.75), 3 (3.5), 4 (4.25), 5.
    assert growing(20, 2, 0.75, start=2) == (0, 1, 3, 5, 8, 12, 17)
    assert growing(9, 3, 0.0, start=1) == (0, 3, 6)
    assert growing(4, 1, 0.0) == (0, 1, 2, 3)
    # Without a warm-up the first interval begins before the run.
    assert growing(7, 2, 1.0) == (1, 4)
    assert growing(3, 9, 0.0, start=7) == (0, 1, 2)


def test_tenths_add_up_to_whole_intervals():
    # 1, 1.1, ..., 1.9 are intervals of 1; the eleventh is 2.
    assert growing(16, 1, 0.1, start=1) == (*range(11), 12, 14)


def test_the_rule_computes_the_listed_evaluations():
    rule = Growing(2, 0.75, start=2)
    assert computed_steps(rule, 20) == [0, 1, 3, 5, 8, 12, 17]
    assert computed_steps(rule, 20, known=False) == [0, 1, 3, 5, 8, 12, 17]
    assert rule(moment(8, 10)) == "window"
    assert rule(moment(9, 10)) is None


def test_a_rule_whose_intervals_stay_below_two_predicts_nothing():
    assert not Growing(1.9, 0.0).may_predict(20)
    assert computed_steps(Growing(1.9, 0.0), 5) == [0, 1, 2, 3, 4]
    assert Growing(2, 0.0).may_predict(20)
    assert Growing(1, 0.1).may_predict(None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window": 0.5, "growth": 1.0}, "window must be a number of at least 1"),
        ({"window": 2, "growth": -1.0}, "growth must be a number of at least 0"),
        ({"window": math.inf, "growth": 0.0}, "window and growth must be finite, got inf and 0.0"),
        ({"window": 2, "growth": 0.5, "start": -1}, "warmup must be a whole number of at least 0, got -1"),
    ],
)
def test_intervals_that_cannot_grow_are_refused(options, says):
    with pytest.raises(DcacheError, match=says):
        Growing(**options)
