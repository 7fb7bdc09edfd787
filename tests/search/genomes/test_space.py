"""Genomes and the schedules they stand for."""

import random
from itertools import pairwise

import pytest

from dcache.errors import DcacheError
from dcache.schedule import Schedule
from dcache.search.genomes.space import RECIPES, Space, units_of
from dcache.search.genomes.variation import crossover, moved, moves, mutate_each, mutate_some, random_genome
from tests.search.random_walk import STEPS, profile

SITES = ("block:0", "block:1", "block:2", "attn:0", "mlp:0", "attn:1", "mlp:1", "trunk")
BOTH = (RECIPES["reuse"], RECIPES["newton"])


def test_genome_and_rows_are_one_thing() -> None:
    space = Space(profile(sites=SITES), (("block:0", "block:1"), ("block:2",)), BOTH)
    genome = random_genome(space, random.Random(3))
    rows = space.rows(genome)
    assert all(row[0] for row in rows)
    assert space.genome(rows, genome[-1]) == genome
    (plan,) = space.schedule(genome).components.values()
    assert [plan.rows["*"][site] for site in ("block:0", "block:1", "block:2")] == [rows[0], rows[0], rows[1]]
    assert plan.predictor == BOTH[genome[-1]].predictor
    assert (plan.model, plan.config) == ("Model", "digest")


def test_units_by_name() -> None:
    seen = profile(sites=SITES)
    assert units_of(seen, "whole") == (("trunk",),)
    assert units_of(seen, "kinds") == (("attn:0", "attn:1"), ("mlp:0", "mlp:1"))
    assert units_of(seen, "blocks") == (("block:0",), ("block:1",), ("block:2",))
    assert units_of(seen, "sublayers") == (("attn:0",), ("mlp:0",), ("attn:1",), ("mlp:1",))
    assert units_of(seen, "sections:2") == (("block:0", "block:1"), ("block:2",))
    for wrong in ("section", "sections:0", "sections:x", ""):
        with pytest.raises(DcacheError, match="are unknown: expected whole, kinds"):
            units_of(seen, wrong)
    with pytest.raises(DcacheError, match="the profile has only 3 blocks"):
        units_of(seen, "sections:4")
    with pytest.raises(DcacheError, match="the profile has no kinds: its sites are trunk"):
        units_of(profile(), "kinds")


def test_fitted_weights_belong_to_their_genome() -> None:
    space = Space(profile(), (("trunk",),), (RECIPES["fitted"],))
    row = [t in (0, 2, 5) for t in range(STEPS)]
    (plan,) = space.schedule(space.genome([row])).components.values()
    table = plan.parameters["weights"]["trunk"]
    assert set(table) == {"1", "3", "4", "6", "7", "8"}
    assert set(table["8"]) == {"2", "5"}
    assert sum(table["8"].values()) == pytest.approx(1.0)


def test_the_nearest_genome_of_a_schedule_of_other_sites() -> None:
    space = Space(profile(sites=SITES), (("attn:0", "attn:1"), ("mlp:0", "mlp:1")))
    (first, second) = space.rows(space.nearest(Schedule.of_steps([0, 4], STEPS)))
    assert first == second == tuple(t in (0, 4) for t in range(STEPS))


def test_neighbours_move_one_compute_by_one_or_two() -> None:
    space = Space(profile(), (("trunk",),), BOTH)
    row = [t in (0, 1, 5) for t in range(STEPS)]
    genome = space.genome([row])
    neighbours = [moved(genome, move) for move in moves(genome, space)]
    found = [space.rows(g)[0] for g in neighbours if g[-1] == 0]
    places = sorted(tuple(t for t in range(STEPS) if r[t]) for r in found)
    # 1 cannot move to 0, which is always computed, nor before it; 5 moves both ways.
    assert places == [(0, 1, 3), (0, 1, 4), (0, 1, 6), (0, 1, 7), (0, 2, 5), (0, 3, 5)]
    assert [g for g in neighbours if g[-1] == 1] == [(*genome[:-1], 1)]


def test_crossover_exchanges_stretches_and_loses_nothing() -> None:
    rng = random.Random(0)
    a, b = (0,) * 30, (1,) * 30
    for _ in range(20):
        x, y = crossover(a, b, rng)
        assert all({p, q} == {0, 1} for p, q in zip(x, y, strict=True))
        assert sum(p != q for p, q in pairwise(x)) == 4


def test_both_conventions_of_a_mutation_rate() -> None:
    space = Space(profile(steps=201), (("trunk",),))
    genome = space.genome([[True] * 201])

    def flipped(found: tuple[int, ...]) -> int:
        return sum(a != b for a, b in zip(found[:200], genome[:200], strict=True))

    rng = random.Random(0)
    each = [flipped(mutate_each(genome, space, rng, 0.05)) for _ in range(400)]
    some = [flipped(mutate_some(genome, space, rng, 0.05)) for _ in range(4000)]
    assert sum(each) / 400 == pytest.approx(10.0, rel=0.1)
    # Every twentieth is mutated, by one bit in the mean: none at all with a probability of 1 / e.
    assert sum(n > 0 for n in some) / 4000 == pytest.approx(0.05 * (1 - 0.3660), rel=0.25)


def test_there_must_be_something_to_choose() -> None:
    with pytest.raises(DcacheError, match="units of one or more sites, and a recipe"):
        Space(profile(), ())
    with pytest.raises(DcacheError, match="has nothing to predict"):
        Space(profile(steps=1), (("trunk",),))
