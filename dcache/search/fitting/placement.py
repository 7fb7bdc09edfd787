"""Local search over the places of computed evaluations: each step moves one by one or two evaluations."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isnan

from dcache.errors import DcacheError

Anchors = tuple[int, ...]
MOVES = (-1, 1, -2, 2)


@dataclass(frozen=True)
class Placed:
    """Result of a local search.

    Attributes:
        anchors: the computed evaluations, ascending.
        quality: quality of these anchors.
        evaluated: number of sets of anchors evaluated, each once.
    """

    anchors: Anchors
    quality: float
    evaluated: int


def even_places(computes: int, steps: int) -> Anchors:
    """`computes` anchors at equal distances, the first at evaluation 0.

    Raises:
        DcacheError: `computes` is not between 1 and `steps`.
    """
    if not 1 <= computes <= steps:
        raise DcacheError(f"expected 1 to {steps} computed evaluations of {steps}, got {computes}")
    return tuple(i * steps // computes for i in range(computes))


def front_loaded_places(computes: int, steps: int, power: float = 1.5) -> Anchors:
    """`computes` anchors, closer together at the start of the run, where pictures take shape."""
    places: list[int] = []
    for i, place in enumerate(even_places(computes, steps)):
        later = int(steps * (i / computes) ** power) if i else place
        places.append(max(later, places[-1] + 1 if places else 0))
    return tuple(places)


def descend(
    quality: Callable[[Anchors], float],
    start: Anchors,
    steps: int,
    budget: int,
    rng: random.Random,
    known: float | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Placed:
    """Move to the first better neighbour until there is none, or the budget is spent.

    Args:
        quality: rates a set of anchors; higher is better, NaN is worst.
        start: ascending anchors; the first is evaluation 0 and is never moved.
        steps: number of evaluations.
        budget: most sets of anchors to evaluate, the start included.
        rng: shuffles the order in which neighbours are tried.
        known: the quality of the start; None evaluates it.
        stop: True ends the search where it is.
    """
    seen: set[Anchors] = {start}
    anchors, best = start, quality(start) if known is None else known
    while True:
        for other in _neighbours(anchors, steps, rng):
            if len(seen) >= budget or stop():
                return Placed(anchors, best, len(seen))
            if other in seen:
                continue
            seen.add(other)
            if (value := quality(other)) > best or isnan(best):
                anchors, best = other, value
                break
        else:
            return Placed(anchors, best, len(seen))


def _neighbours(anchors: Anchors, steps: int, rng: random.Random) -> Iterator[Anchors]:
    moves = [(i, by) for i in range(1, len(anchors)) for by in MOVES]
    rng.shuffle(moves)
    for i, by in moves:
        moved = anchors[i] + by
        if 0 < moved < steps and moved not in anchors:
            yield tuple(sorted({*anchors[:i], moved, *anchors[i + 1 :]}))
