"""Algorithms of the planners: where to compute, from tables of errors. Pure functions on arrays; no torch.

Tables are indexed by evaluation, 0 to T - 1. `error[a, t]`: error at step t when the feature cached at step a
is reused. `error[a, b, t]`: error of predicting step t from the anchors a and b, with `a = b` if there is
only one anchor. Plans are anchors in ascending order, the first being evaluation 0. The errors of different
evaluations are assumed to add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcache.errors import DcacheError
from dcache.profile import Floats

Anchors = tuple[int, ...]


def threshold_scan(
    error: Floats, threshold: float, longest: int | None = None, last: bool = False
) -> Anchors:
    """Reuse an anchor while its error is below the threshold (SmoothCache; ERTACache's reuse set).

    Args:
        error: (T, T).
        threshold: errors that are not below it compute.
        longest: most predictions in a row, None for no limit.
        last: always compute the last evaluation.
    """
    error = _table(error, 2)
    anchors = [0]
    for t in range(1, len(error)):
        anchor = anchors[-1]
        near = longest is None or t - anchor <= longest
        if not (near and error[anchor, t] < threshold) or (last and t == len(error) - 1):
            anchors.append(t)
    return tuple(anchors)


def optimal_partition(error: Floats, computes: int, shortest: int = 1, longest: int | None = None) -> Anchors:
    """Cut the evaluations into groups that begin with their anchor, with the least sum of errors.

    BAC's scheduler (anchor-to-step form, with similarities as negative errors) and CacheQuant's, which bounds
    the groups' lengths. Dynamic programming in O(computes T^2).

    Args:
        error: (T, T).
        computes: number of groups.
        shortest: fewest evaluations of a group.
        longest: most evaluations of a group.

    Raises:
        DcacheError: there is no such partition.
    """
    error = _table(error, 2)
    count = len(error)
    longest = count if longest is None else longest
    _reachable(count, computes, shortest, longest)
    # group[a, end]: the error of a group that ends before `end`; infinite where it is too long or short.
    lengths = np.arange(count + 1)[None, :] - np.arange(count)[:, None]
    group = np.where((lengths >= shortest) & (lengths <= longest), _groups(error), np.inf)
    best = np.full((computes + 1, count + 1), np.inf)
    before = np.zeros((computes + 1, count + 1), np.int64)
    best[0, 0] = 0.0
    for k in range(1, computes + 1):
        sums = best[k - 1, :count, None] + group
        before[k] = np.argmin(sums, axis=0)
        best[k] = np.min(sums, axis=0)
    anchors, end = [], count
    for k in range(computes, 0, -1):
        end = int(before[k, end])
        anchors.append(end)
    return tuple(reversed(anchors))


def least_similar(similarity: Sequence[float], computes: int) -> Anchors:
    """Compute evaluation 0 and those that are least similar to the previous one (BAC's scheduler as printed).

    Args:
        similarity: (T,), of each evaluation to the previous one; the first entry is ignored.
        computes: number of anchors.
    """
    values = np.asarray(similarity, np.float64)
    _reachable(len(values), computes, 1, len(values))
    least = np.argsort(values[1:], kind="stable")[: computes - 1] + 1
    return tuple(sorted((0, *map(int, least))))


@dataclass(frozen=True)
class PairPlans:
    """The best plans with predictions from the last two anchors, for every number of computes.

    Attributes:
        errors: (most + 1,), the least sum of errors for each number of computes; infinite if there is no
            plan.
    """

    errors: Floats
    _best: Floats
    _closing: Floats
    _before: NDArray[np.int64]

    def anchors(self, computes: int) -> Anchors:
        """The best anchors for a number of computes.

        Raises:
            DcacheError: there is no such plan.
        """
        if not (1 <= computes < len(self.errors)) or not np.isfinite(self.errors[computes]):
            known = np.flatnonzero(np.isfinite(self.errors))
            raise DcacheError(
                f"no plan computes {computes} times: there are plans for {list(map(int, known))}"
            )
        total = self._best[computes] + self._closing
        a, b = np.unravel_index(np.argmin(total), total.shape)
        anchors, k = [int(b)], computes
        while k > 1:
            anchors.append(int(a))
            a, b = self._before[k, a, b], a
            k -= 1
        return tuple(sorted(set(anchors)))


def pair_partition(error: Floats, most: int, forced: Sequence[int] = ()) -> PairPlans:
    """The anchors with the least sum of errors of predictions from the last two of them.

    Exact, by dynamic programming over the last two anchors; O(most T^3), vectorised.

    Args:
        error: (T, T, T), `[a, b, t]` for a < b < t, and `[b, b, t]` where `b` is the first anchor.
        most: largest number of computes.
        forced: evaluations that are always computed, besides the first.
    """
    error = _table(error, 3)
    count = len(error)
    # within[a, b, c]: predictions after b and before c.
    within = np.zeros((count, count, count + 1))
    for b in range(count):
        within[:, b, b + 2 :] = np.cumsum(error[:, b, b + 1 :], axis=1)[:, : count - b - 1]
        for t in forced:
            if t > b:
                within[:, b, t + 1 :] = np.inf
    best = np.full((most + 1, count, count), np.inf)
    before = np.zeros((most + 1, count, count), np.int64)
    best[1, 0, 0] = 0.0
    for k in range(2, most + 1):
        # best[k, a, b]: least error with k computes, of which a and b are the last. Extend by an anchor c.
        for b in range(count - 1):
            sums = best[k - 1, : b + 1, b, None] + within[: b + 1, b, b + 1 : count]
            before[k, b, b + 1 :] = np.argmin(sums, axis=0)
            best[k, b, b + 1 :] = np.min(sums, axis=0)
    closing = within[:, :, count]
    errors = np.concatenate([[np.inf], [(best[k] + closing).min() for k in range(1, most + 1)]])
    return PairPlans(errors, best, closing, before)


def knapsack(errors: Sequence[Floats], costs: Sequence[float], budget: float) -> tuple[int, ...]:
    """The number of computes of each site with the least sum of errors within a time budget.

    Lagrangian relaxation: a price per second is found by bisection, and each site takes the number of
    computes that minimises error plus price times seconds. This reaches only points on the convex hull, so
    the rest of the budget is spent greedily.

    Args:
        errors: for each site, `[k]` is its least error with k computes; infinite if there is no plan.
        costs: seconds of one compute of each site.
        budget: seconds in total.

    Raises:
        DcacheError: even the fewest computes take longer.
    """
    tables = [np.asarray(table, np.float64) for table in errors]
    fewest = tuple(int(np.flatnonzero(np.isfinite(table))[0]) for table in tables)

    def spent(counts: Sequence[int]) -> float:
        return float(sum(k * cost for k, cost in zip(counts, costs, strict=True)))

    def at(price: float) -> tuple[int, ...]:
        return tuple(
            int(np.argmin(table + price * cost * np.arange(len(table))))
            for table, cost in zip(tables, costs, strict=True)
        )

    if spent(fewest) > budget:
        raise DcacheError(
            f"the budget of {budget:.4g} s is below the {spent(fewest):.4g} s of the fewest computes: ask "
            "for less speedup"
        )
    low, high = 0.0, 1.0
    while spent(at(high)) > budget and high < 1e30:
        high *= 4.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(at(middle)) > budget else (low, middle)
    counts = list(at(high) if spent(at(high)) <= budget else fewest)
    while True:
        gains = []
        for i, (table, cost) in enumerate(zip(tables, costs, strict=True)):
            for k in range(counts[i] + 1, len(table)):
                gain = table[counts[i]] - table[k]
                extra = (k - counts[i]) * cost
                if gain > 0 and spent(counts) + extra <= budget:
                    gains.append((gain / extra if extra else np.inf, i, k))
        if not gains:
            return tuple(counts)
        _, i, k = max(gains)
        counts[i] = k


def bubbling_union(
    rows: Sequence[Sequence[bool]], order: Sequence[int], errors: Sequence[float], top: int
) -> list[tuple[bool, ...]]:
    """BAC's Bubbling Union: early feed-forward layers also compute where later ones do.

    The `top` sites with the largest errors are selected. Each of them also computes wherever a selected site
    of the same or a later layer does. Computes are only added; with fewer than two selected sites nothing
    changes.

    Args:
        rows: rows of the feed-forward sites, one bool per evaluation.
        order: their layers.
        errors: of each site, such as its mean change from evaluation to evaluation.
        top: number of selected sites.

    Returns:
        The new rows, in the same order.
    """
    table = np.asarray(rows, bool)
    selected = sorted(range(len(table)), key=lambda i: -errors[i])[:top]
    united = table.copy()
    if len(selected) > 1:
        for i in selected:
            later = [j for j in selected if order[j] >= order[i]]
            united[i] = table[later].any(axis=0)
    return [tuple(map(bool, row)) for row in united]


def maximal_runs(labels: Sequence[bool]) -> list[tuple[int, int]]:
    """The maximal runs of true labels, as (first, last): ProfilingDiT's background blocks."""
    runs: list[tuple[int, int]] = []
    for i, label in enumerate(labels):
        if label and runs and runs[-1][1] == i - 1:
            runs[-1] = (runs[-1][0], i)
        elif label:
            runs.append((i, i))
    return runs


def _groups(error: Floats) -> Floats:
    """(T, T + 1), `[a, end]`: the error of the group that begins with anchor `a` and ends before `end`."""
    count = len(error)
    sums = np.full((count, count + 1), np.inf)
    for a in range(count):
        sums[a, a + 1 :] = np.concatenate([[0.0], np.cumsum(error[a, a + 1 :])])
    return sums


def _table(error: Floats, dimensions: int) -> Floats:
    table = np.asarray(error, np.float64)
    if table.ndim != dimensions or len(set(table.shape)) != 1 or not table.size:
        raise DcacheError(f"expected a table of {dimensions} equal sides, got the shape {table.shape}")
    if np.isnan(table).any():
        raise DcacheError("the table of errors holds NaN: observe again, or leave out the run that made them")
    return table


def _reachable(count: int, computes: int, shortest: int, longest: int) -> None:
    if not (1 <= shortest <= longest and computes * shortest <= count <= computes * longest):
        raise DcacheError(
            f"{count} evaluations cannot be cut into {computes} groups of {shortest} to {longest}"
        )
