"""Intervals that shrink over the run: by hand, and near the published list."""

import pytest

from dcache.errors import DcacheError
from dcache.schedulers import Shrinking
from dcache.schedulers.shrinking import shrinking
from tests.rules import computed_steps, moment


def test_intervals_shrink_from_the_first_to_the_last():
    assert shrinking(12, 4, 4) == (0, 4, 8)
    assert shrinking(5, 1, 1) == (0, 1, 2, 3, 4)
    # 6 at 0, 6 - 4 * 6 / 12 = 4 at 6, then 2.67, whose whole part is 2, at 10.
    assert shrinking(12, 6, 2) == (0, 6, 10)
    assert shrinking(14, 6, 1, start=2) == (0, 1, 2, 8, 11, 13)
    assert shrinking(3, 9, 1, start=7) == (0, 1, 2)


def test_hunyuans_settings_come_near_its_published_list():
    published = [6, 18, 26, 32, 38, 42, 46, 48]
    found = [t for t in shrinking(50, 12, 2, start=6) if t >= 6]
    assert len(found) == len(published)
    assert max(abs(a - b) for a, b in zip(found, published, strict=True)) <= 2


def test_the_rule_computes_the_evaluations_of_its_run():
    assert computed_steps(Shrinking(6, 2), 12) == [0, 6, 10]
    assert computed_steps(Shrinking(6, 1, start=2), 14) == [0, 1, 2, 8, 11, 13]
    # The same rule in a run of another length: the interval falls from 6 to 2 over 24 evaluations.
    assert computed_steps(Shrinking(6, 2), 24) == list(shrinking(24, 6, 2)) == [0, 6, 11, 15, 18, 21, 23]
    assert Shrinking(6, 2)(moment(6, 12)) == "interval"
    assert Shrinking(6, 2)(moment(5, 12)) is None


def test_intervals_that_are_alike_need_no_number_of_evaluations_and_others_do():
    assert computed_steps(Shrinking(3, 3, start=1), 9, known=False) == [0, 1, 4, 7]
    assert Shrinking(6, 2)(moment(3, 12)) is None
    assert Shrinking(6, 2)(moment(3, None)) == "length"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"t_max": 2, "t_min": 3}, "t_max must be a whole number of at least 3, got 2"),
        ({"t_max": 2, "t_min": 0}, "t_min must be a whole number of at least 1, got 0"),
        ({"t_max": 2.5, "t_min": 1}, "t_max"),
        ({"t_max": 2, "t_min": 1, "start": -1}, "start must be a whole number of at least 0, got -1"),
    ],
)
def test_intervals_that_cannot_shrink_are_refused(options, says):
    with pytest.raises(DcacheError, match=says):
        Shrinking(**options)
