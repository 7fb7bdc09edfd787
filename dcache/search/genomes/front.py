"""Pareto dominance and hypervolume; all objectives are minimised."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isnan

Objectives = tuple[float, ...]
# Stands for a value that is no number: worse than any measurement, but finite, so that selection can compute.
WORST = 1e9


def settled(objectives: Sequence[float]) -> Objectives:
    """The objectives, clipped to +-`WORST`. If one is NaN, all are `WORST`: a broken candidate ranks last."""
    if any(isnan(value) for value in objectives):
        return (WORST,) * len(objectives)
    return tuple(min(max(value, -WORST), WORST) for value in objectives)


def dominates(a: Objectives, b: Objectives) -> bool:
    """Whether `a` is no worse than `b` in every objective and better in one."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def nondominated(points: Sequence[Objectives]) -> list[int]:
    """Indices of the nondominated points, sorted by the first objective; of equal points the first."""
    order = sorted(range(len(points)), key=lambda i: (points[i], i))
    front: list[int] = []
    for i in order:
        if not any(points[j] == points[i] or dominates(points[j], points[i]) for j in front):
            front.append(i)
    return front


def hypervolume(points: Sequence[Objectives], reference: Objectives) -> float:
    """Volume between the points and the reference point, by slicing along the last objective.

    Args:
        points: points of any kind; those that are not better than the reference everywhere add nothing.
        reference: a point worse than all of interest.
    """
    inside = [p for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)
    if len(reference) == 2:
        volume, lowest = 0.0, reference[1]
        for x, y in sorted(inside):
            volume += (reference[0] - x) * max(lowest - y, 0.0)
            lowest = min(lowest, y)
        return volume
    levels = [*sorted({p[-1] for p in inside}), reference[-1]]
    return sum(
        (above - level) * hypervolume([p[:-1] for p in inside if p[-1] <= level], reference[:-1])
        for level, above in pairwise(levels)
    )
