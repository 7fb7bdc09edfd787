"""Planners equal brute force on small cases, and refuse what has no plan."""

import itertools

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.schedulers.planners.algorithms import (
    bubbling_union,
    knapsack,
    least_similar,
    maximal_runs,
    optimal_partition,
    pair_partition,
    threshold_scan,
)

T = 9


def table(seed: int, dimensions: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).random((T,) * dimensions)


def subsets(computes: int):
    for rest in itertools.combinations(range(1, T), computes - 1):
        yield (0, *rest)


def single(error: np.ndarray, anchors: tuple[int, ...]) -> float:
    return sum(error[max(a for a in anchors if a <= t), t] for t in range(T) if t not in anchors)


def pairs(error: np.ndarray, anchors: tuple[int, ...]) -> float:
    total = 0.0
    for t in range(T):
        before = [a for a in anchors if a <= t]
        if t not in anchors:
            total += error[before[-2] if len(before) > 1 else before[-1], before[-1], t]
    return total


@pytest.mark.parametrize("computes", range(1, T + 1))
@pytest.mark.parametrize("seed", [0, 1])
def test_the_partition_is_the_best_of_all(computes: int, seed: int) -> None:
    error = table(seed)
    found = optimal_partition(error, computes)
    best = min(subsets(computes), key=lambda anchors: single(error, anchors))
    assert len(found) == computes
    assert single(error, found) == pytest.approx(single(error, best))
    # Similarities are errors with the other sign.
    similar = optimal_partition(-error, computes)
    assert single(error, similar) == pytest.approx(max(single(error, a) for a in subsets(computes)))


@pytest.mark.parametrize(
    ("computes", "shortest", "longest"), [(3, 2, 4), (2, 1, 5), (4, 2, 3), (9, 1, 1), (3, 1, 3), (3, 3, 9)]
)
def test_the_partition_keeps_to_its_bounds(computes: int, shortest: int, longest: int) -> None:
    error = table(3)

    def allowed(anchors: tuple[int, ...]) -> bool:
        lengths = np.diff([*anchors, T])
        return bool(((lengths >= shortest) & (lengths <= longest)).all())

    best = min(filter(allowed, subsets(computes)), key=lambda anchors: single(error, anchors))
    assert optimal_partition(error, computes, shortest, longest) == best


@pytest.mark.parametrize(("computes", "shortest", "longest"), [(0, 1, 9), (10, 1, 9), (2, 1, 4), (3, 4, 9)])
def test_a_partition_that_cannot_be_is_refused(computes: int, shortest: int, longest: int) -> None:
    with pytest.raises(DcacheError, match="9 evaluations cannot be cut into"):
        optimal_partition(table(0), computes, shortest, longest)


@pytest.mark.parametrize("computes", range(1, T + 1))
def test_the_printed_form_keeps_the_least_similar(computes: int) -> None:
    similarity = np.random.default_rng(5).random(T)
    best = max(subsets(computes), key=lambda a: similarity[1:].sum() - sum(similarity[i] for i in a if i))
    assert least_similar(similarity, computes) == best


@pytest.mark.parametrize("forced", [(), (T - 1,), (3, 6)])
@pytest.mark.parametrize("seed", [0, 1])
def test_plans_of_pairs_are_the_best_of_all(seed: int, forced: tuple[int, ...]) -> None:
    error = table(seed, 3)
    plans = pair_partition(error, T, forced)
    for computes in range(1, T + 1):
        fitting = [a for a in subsets(computes) if set(forced) <= set(a)]
        if not fitting:
            with pytest.raises(DcacheError, match=f"no plan computes {computes} times"):
                plans.anchors(computes)
            continue
        best = min(pairs(error, anchors) for anchors in fitting)
        assert plans.errors[computes] == pytest.approx(best)
        assert pairs(error, plans.anchors(computes)) == pytest.approx(best)
        assert len(plans.anchors(computes)) == computes


def test_scanning_stays_on_an_anchor_while_its_error_is_small() -> None:
    error = np.abs(np.subtract.outer(np.arange(T), np.arange(T))).astype(float)
    assert threshold_scan(error, 0.0) == tuple(range(T))
    assert threshold_scan(error, 2.5) == (0, 3, 6)
    assert threshold_scan(error, 2.5, last=True) == (0, 3, 6, 8)
    assert threshold_scan(error, 99.0, longest=3) == (0, 4, 8)
    assert threshold_scan(error, 99.0) == (0,)


@pytest.mark.parametrize("budget", [3.0, 5.5, 8.0, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_knapsack_is_as_good_as_brute_force_where_errors_are_convex(budget: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors = []
    for _ in range(3):
        steps = np.sort(rng.random(5))[::-1]
        errors.append(np.concatenate([[np.inf], 5 - np.cumsum(np.concatenate([[0.0], steps]))]))
    costs = [1.0, 1.0, 1.0]
    found = knapsack(errors, costs, budget)
    assert sum(found) <= budget
    everything = [c for c in itertools.product(range(1, 7), repeat=3) if sum(c) <= budget]
    best = min(sum(e[k] for e, k in zip(errors, c, strict=True)) for c in everything)
    assert sum(e[k] for e, k in zip(errors, found, strict=True)) == pytest.approx(best)


def test_the_knapsack_never_exceeds_its_budget_and_leaves_nothing_to_gain() -> None:
    rng = np.random.default_rng(0)
    errors = [np.concatenate([[np.inf], np.sort(rng.random(6))[::-1]]) for _ in range(5)]
    costs = list(rng.random(5) + 0.5)
    found = knapsack(errors, costs, 12.0)
    spent = sum(k * c for k, c in zip(found, costs, strict=True))
    assert spent <= 12.0
    for i, k in enumerate(found):
        for more in range(k + 1, 7):
            assert spent + (more - k) * costs[i] > 12.0 or errors[i][more] >= errors[i][k]
    with pytest.raises(DcacheError, match="ask for less speedup"):
        knapsack(errors, costs, 1.0)


def test_the_union_only_adds_and_doing_it_again_adds_nothing() -> None:
    rng = np.random.default_rng(1)
    rows = rng.random((6, T)) < 0.4
    errors, layers = list(rng.random(6)), list(range(6))
    once = bubbling_union(rows.tolist(), layers, errors, 3)
    assert (np.asarray(once) >= rows).all()
    assert bubbling_union(once, layers, errors, 3) == once
    chosen = sorted(range(6), key=lambda i: -errors[i])[:3]
    assert once[min(chosen)] == tuple(map(bool, rows[chosen].any(axis=0)))
    for i in set(range(6)) - set(chosen):
        assert once[i] == tuple(map(bool, rows[i]))
    assert bubbling_union(rows.tolist(), layers, errors, 1) == [tuple(map(bool, row)) for row in rows]


def test_runs_of_labels_are_maximal() -> None:
    assert maximal_runs([True, False, True, True, False, True]) == [(0, 0), (2, 3), (5, 5)]
    assert maximal_runs([False]) == []


def test_tables_that_are_none_are_refused() -> None:
    with pytest.raises(DcacheError, match="equal sides"):
        optimal_partition(np.zeros((3, 4)), 2)
    bad = table(0)
    bad[1, 2] = np.nan
    with pytest.raises(DcacheError, match="NaN"):
        threshold_scan(bad, 1.0)


@pytest.mark.parametrize("computes", [1, 4, 7, 11, 12])
def test_the_partition_of_twelve_evaluations_is_the_best_of_all(computes: int) -> None:
    error = np.random.default_rng(12).random((12, 12))

    def total(anchors: tuple[int, ...]) -> float:
        return sum(error[max(a for a in anchors if a <= t), t] for t in range(12) if t not in anchors)

    best = min(total((0, *rest)) for rest in itertools.combinations(range(1, 12), computes - 1))
    assert total(optimal_partition(error, computes)) == pytest.approx(best)
