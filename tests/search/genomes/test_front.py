"""Dominance and hypervolume against brute force."""

import itertools
import random

import pytest

from dcache.search.genomes.front import WORST, dominates, hypervolume, nondominated, settled

NAN = float("nan")


def points(count: int, dimensions: int) -> list[tuple[float, ...]]:
    rng = random.Random(count * 10 + dimensions)
    return [tuple(float(rng.randrange(8)) for _ in range(dimensions)) for _ in range(count)]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_front_is_what_nothing_dominates(dimensions: int) -> None:
    many = points(40, dimensions)
    kept = [many[i] for i in nondominated(many)]
    assert len(set(kept)) == len(kept)
    assert set(kept) == {p for p in many if not any(dominates(q, p) for q in many)}
    assert kept == sorted(kept)


def test_dominance_is_strict() -> None:
    assert dominates((1.0, 2.0), (1.0, 3.0))
    assert not dominates((1.0, 2.0), (1.0, 2.0))
    assert not dominates((1.0, 4.0), (2.0, 3.0))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_hypervolume_counts_the_unit_cells_that_are_dominated(dimensions: int) -> None:
    many = points(12, dimensions)
    cells = itertools.product(range(6), repeat=dimensions)
    counted = sum(any(all(x <= c for x, c in zip(p, cell, strict=True)) for p in many) for cell in cells)
    assert hypervolume(many, (6.0,) * dimensions) == counted
    assert hypervolume([(7.0,) * dimensions], (6.0,) * dimensions) == 0.0
    assert hypervolume([], (6.0,) * dimensions) == 0.0


def test_what_is_no_number_is_the_worst_of_all() -> None:
    assert settled([1.0, NAN]) == (WORST, WORST)
    assert settled([1.0, float("inf")]) == (1.0, WORST)
    assert settled([1.0, -40.0]) == (1.0, -40.0)
    assert nondominated([settled([0.1, NAN]), (5.0, 1.0)]) == [1]
