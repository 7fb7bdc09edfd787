"""Planners: where to compute, from tables of errors. Pure functions on arrays; no model, no torch.

Tables are indexed by evaluation, 0 to T - 1. `error[a, t]`: error at step t when the feature cached at
step a is reused. `error[a, b, t]`: error of predicting step t from the anchors a and b, with `a = b` where
there is one anchor only. Anchors are sorted and begin with evaluation 0, which has nothing to predict
from. The errors of different evaluations are taken to add up.
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
    """Stay on an anchor while its error is below the threshold (SmoothCache; ERTACache's reuse set).

    Args:
        error: (T, T).
        threshold: an error that is not below it computes.
        longest: most predictions in a row.
        last: compute the last evaluation in any case.
    """
    error = _table(error, 2)
    anchors = [0]
    for t in range(1, len(error)):
        here = anchors[-1]
        near = longest is None or t - here <= longest
        if not (near and error[here, t] < threshold) or (last and t == len(error) - 1):
            anchors.append(t)
    return tuple(anchors)


def optimal_partition(error: Floats, computes: int, shortest: int = 1, longest: int | None = None) -> Anchors:
    """Cut the evaluations into groups that begin with their anchor, at the least sum of errors.

    BAC's scheduler (anchor-to-step form, with similarities as negative errors) and CacheQuant's, which bounds
    the groups' lengths. O(computes T^2).

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
    """Keep evaluation 0 and those least similar to the one before (BAC's scheduler as printed).

    Args:
        similarity: (T,), of each evaluation to the one before; the first entry counts nothing.
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
        errors: (most + 1,), the least sum of errors for each number of computes; infinite without a plan.
    """

    errors: Floats
    _best: Floats
    _closing: Floats
    _before: NDArray[np.int64]

    def anchors(self, computes: int) -> Anchors:
        """The best places for so many computes.

        Raises:
            DcacheError: there are none.
        """
        if not (1 <= computes < len(self.errors)) or not np.isfinite(self.errors[computes]):
            known = np.flatnonzero(np.isfinite(self.errors))
            raise DcacheError(
                f"no plan computes {computes} times: there are plans for {list(map(int, known))}"
            )
        total = self._best[computes] + self._closing
        a, b = np.unravel_index(np.argmin(total), total.shape)
        found, k = [int(b)], computes
        while k > 1:
            found.append(int(a))
            a, b = self._before[k, a, b], a
            k -= 1
        return tuple(sorted(set(found)))


def pair_partition(error: Floats, most: int, forced: Sequence[int] = ()) -> PairPlans:
    """Place anchors so that predictions from the last two of them have the least sum of errors.

    Exact, by dynamic programming over the last two anchors; O(most T^3) on vectors.

    Args:
        error: (T, T, T), `[a, b, t]` for a < b < t, and `[b, b, t]` where `b` is the first anchor.
        most: largest number of computes of interest.
        forced: evaluations that are computed in any case, beside the first.
    """
    error = _table(error, 3)
    count = len(error)
    # within[a, b, c]: predictions after b and before c.
    within = np.zeros((count, count, count + 1))
    for b in range(count):
        within[:, b, b + 2 :] = np.cumsum(error[:, b, b + 1 :], axis=1)[:, : count - b - 1]
        for one in forced:
            if one > b:
                within[:, b, one + 1 :] = np.inf
    best = np.full((most + 1, count, count), np.inf)
    before = np.zeros((most + 1, count, count), np.int64)
    best[1, 0, 0] = 0.0
    for k in range(2, most + 1):
        # From the anchors (a, b) to (b, c).
        for b in range(count - 1):
            sums = best[k - 1, : b + 1, b, None] + within[: b + 1, b, b + 1 : count]
            before[k, b, b + 1 :] = np.argmin(sums, axis=0)
            best[k, b, b + 1 :] = np.min(sums, axis=0)
    closing = within[:, :, count]
    errors = np.concatenate([[np.inf], [(best[k] + closing).min() for k in range(1, most + 1)]])
    return PairPlans(errors, best, closing, before)


def knapsack(errors: Sequence[Floats], costs: Sequence[float], budget: float) -> tuple[int, ...]:
    """How often to compute each site, at the least sum of errors within a budget of time.

    One price on time is bisected; each site then takes the number of computes that is cheapest at that price.
    A price reaches only the convex hull, so the rest of the budget is spent greedily.

    Args:
        errors: for each site, `[k]` is its least error with k computes; infinite where there is no plan.
        costs: seconds of one compute of each site.
        budget: seconds in all.

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
            f"the budget of {budget:.4g} s is below {spent(fewest):.4g} s, what the fewest computes take: "
            "ask for less speedup"
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
    """BAC's Bubbling Union: an error that enters early is not carried through feed-forward layers unseen.

    The `top` sites of the largest error are selected; each of them also computes wherever a selected site of
    the same or a later layer does. Computes are only ever added; fewer than two selected change nothing.

    Args:
        rows: of the feed-forward sites, one bool per evaluation.
        order: their layers.
        errors: of each site, such as its mean change from evaluation to evaluation.
        top: how many are selected.
    """
    table = np.asarray(rows, bool)
    chosen = sorted(range(len(table)), key=lambda i: -errors[i])[:top]
    found = table.copy()
    if len(chosen) > 1:
        for i in chosen:
            later = [j for j in chosen if order[j] >= order[i]]
            found[i] = table[later].any(axis=0)
    return [tuple(map(bool, row)) for row in found]


def maximal_runs(labels: Sequence[bool]) -> list[tuple[int, int]]:
    """The maximal runs of true labels, as (first, last): ProfilingDiT's background blocks."""
    found: list[tuple[int, int]] = []
    for i, label in enumerate(labels):
        if label and found and found[-1][1] == i - 1:
            found[-1] = (found[-1][0], i)
        elif label:
            found.append((i, i))
    return found


def _groups(error: Floats) -> Floats:
    """`[a, end]`: the error of the group that begins with the anchor `a` and ends before `end`."""
    count = len(error)
    sums = np.full((count, count + 1), np.inf)
    for a in range(count):
        sums[a, a + 1 :] = np.concatenate([[0.0], np.cumsum(error[a, a + 1 :])])
    return sums


def _table(error: Floats, dimensions: int) -> Floats:
    found = np.asarray(error, np.float64)
    if found.ndim != dimensions or len(set(found.shape)) != 1 or not found.size:
        raise DcacheError(f"expected a table of {dimensions} equal sides, got the shape {found.shape}")
    if np.isnan(found).any():
        raise DcacheError("the table of errors holds NaN: observe again, or leave out the run that made them")
    return found


def _reachable(count: int, computes: int, shortest: int, longest: int) -> None:
    if not (1 <= shortest <= longest and computes * shortest <= count <= computes * longest):
        raise DcacheError(
            f"{count} evaluations cannot be cut into {computes} groups of {shortest} to {longest}"
        )
