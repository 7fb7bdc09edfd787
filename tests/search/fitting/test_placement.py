"""The local search finds the top of a hill, looks at nothing twice and keeps to its budget."""

import random

import pytest

from dcache.errors import DcacheError
from dcache.search.fitting.placement import Anchors, descend, even_places, front_loaded_places

TOP = (0, 3, 4, 11)


def closeness(anchors: Anchors) -> float:
    return -float(sum(abs(a - b) for a, b in zip(anchors, TOP, strict=True)))


@pytest.mark.parametrize("seed", range(5))
def test_it_climbs_to_the_top_and_stops_there(seed: int) -> None:
    looked: list[Anchors] = []

    def quality(anchors: Anchors) -> float:
        looked.append(anchors)
        return closeness(anchors)

    found = descend(quality, even_places(4, 20), 20, 500, random.Random(seed))
    assert (found.anchors, found.quality) == (TOP, 0.0)
    assert len(looked) == len(set(looked)) == found.evaluated < 500
    for anchors in looked:
        assert anchors[0] == 0
        assert list(anchors) == sorted(set(anchors))
        assert anchors[-1] < 20


def test_the_budget_is_kept_and_the_best_so_far_is_given() -> None:
    found = descend(closeness, even_places(4, 20), 20, 7, random.Random(0))
    assert found.evaluated == 7
    assert closeness(even_places(4, 20)) <= found.quality == closeness(found.anchors) < 0


def test_equal_seeds_climb_the_same_way() -> None:
    ways = []
    for _ in range(2):
        way: list[Anchors] = []
        descend(
            lambda a, way=way: way.append(a) or closeness(a), even_places(4, 20), 20, 60, random.Random(3)
        )
        ways.append(way)
    assert ways[0] == ways[1]


def test_what_is_no_number_is_worse_than_everything() -> None:
    start = even_places(4, 20)

    def quality(anchors: Anchors) -> float:
        return float("nan") if anchors == start else closeness(anchors)

    assert descend(quality, start, 20, 500, random.Random(0)).anchors == TOP
    broken = descend(lambda a: closeness(a) if a == start else float("nan"), start, 20, 500, random.Random(0))
    assert broken.anchors == start


def test_even_places_are_spread_over_the_run() -> None:
    assert even_places(5, 20) == (0, 4, 8, 12, 16)
    assert even_places(1, 20) == (0,)
    assert even_places(20, 20) == tuple(range(20))
    with pytest.raises(DcacheError, match="expected 1 to 20 computed evaluations of 20, got 21"):
        even_places(21, 20)


def test_early_places_are_closer_together_at_the_beginning() -> None:
    assert front_loaded_places(5, 20) == (0, 1, 5, 9, 14)
    assert front_loaded_places(5, 20, power=1.0) == even_places(5, 20)
    assert front_loaded_places(1, 20) == (0,)
    assert front_loaded_places(20, 20) == tuple(range(20))
    for steps in range(1, 30):
        for computes in range(1, steps + 1):
            found = front_loaded_places(computes, steps, power=3.0)
            assert found[0] == 0
            assert list(found) == sorted(set(found))
            assert (len(found), found[-1] < steps) == (computes, True)
