"""The anchors that a prediction reads."""

import pytest

from dcache.schedule.anchors import last_before


@pytest.mark.parametrize(
    ("t", "count", "expected"), [(7, 2, [2, 5]), (8, 2, [5, 7]), (7, 9, [0, 2, 5]), (0, 2, []), (99, 1, [9])]
)
def test_the_last_anchors_before_an_evaluation(t: int, count: int, expected: list[int]) -> None:
    assert last_before(t, (0, 2, 5, 7, 9), count) == expected
