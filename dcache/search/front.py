"""Which candidates are worth keeping: dominance, and a front's hypervolume. Objectives are minimised."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isnan

Objectives = tuple[float, ...]
# In place of what is no number: worse than all that can be measured, finite for the arithmetic of selection.
WORST = 1e9


def settled(objectives: Sequence[float]) -> Objectives:
    """The same; all of them the worst if one is not a number, so that it cannot win by being cheap."""
    if any(isnan(value) for value in objectives):
        return (WORST,) * len(objectives)
    return tuple(min(max(value, -WORST), WORST) for value in objectives)


def dominates(a: Objectives, b: Objectives) -> bool:
    """Whether `a` is nowhere worse and somewhere better."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def nondominated(points: Sequence[Objectives]) -> list[int]:
    """Indices of the points that none dominates, by their first objective; of equal points the first."""
    order = sorted(range(len(points)), key=lambda i: (points[i], i))
    kept: list[int] = []
    for i in order:
        if not any(points[j] == points[i] or dominates(points[j], points[i]) for j in kept):
            kept.append(i)
    return kept


def hypervolume(points: Sequence[Objectives], reference: Objectives) -> float:
    """Volume that the points dominate within the reference point, by slicing along the last objective.

    Args:
        points: any; those outside the reference count for nothing.
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
