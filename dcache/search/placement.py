"""Local search over the places of computes: one is moved by one or two evaluations, the result looked at."""

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
    """The best places that were found.

    Attributes:
        anchors: where is computed.
        quality: there.
        evaluated: how many sets of places were looked at, each once.
    """

    anchors: Anchors
    quality: float
    evaluated: int


def even_places(computes: int, steps: int) -> Anchors:
    """So many computes at equal distances, the first at evaluation 0."""
    if not 1 <= computes <= steps:
        raise DcacheError(f"of {steps} evaluations 1 to {steps} can be computed, not {computes}")
    return tuple(i * steps // computes for i in range(computes))


def front_loaded_places(computes: int, steps: int, power: float = 1.5) -> Anchors:
    """So many computes, closer together at the beginning of the run, where pictures take shape."""
    found: list[int] = []
    for i, place in enumerate(even_places(computes, steps)):
        later = int(steps * (i / computes) ** power) if i else place
        found.append(max(later, found[-1] + 1 if found else 0))
    return tuple(found)


def descend(
    quality: Callable[[Anchors], float], start: Anchors, steps: int, budget: int, rng: random.Random
) -> Placed:
    """Take any better neighbour until there is none, or the budget is spent.

    Args:
        quality: higher is better; what is not a number is worse than everything.
        start: sorted, with evaluation 0, which stays.
        steps: number of evaluations.
        budget: most sets of places to look at.
        rng: decides in which order neighbours are tried.
    """
    seen: set[Anchors] = {start}
    here, best = start, quality(start)
    while True:
        for other in _neighbours(here, steps, rng):
            if len(seen) >= budget:
                return Placed(here, best, len(seen))
            if other in seen:
                continue
            seen.add(other)
            if (found := quality(other)) > best or isnan(best):
                here, best = other, found
                break
        else:
            return Placed(here, best, len(seen))


def _neighbours(anchors: Anchors, steps: int, rng: random.Random) -> Iterator[Anchors]:
    moves = [(i, by) for i in range(1, len(anchors)) for by in MOVES]
    rng.shuffle(moves)
    for i, by in moves:
        moved = anchors[i] + by
        if 0 < moved < steps and moved not in anchors:
            yield tuple(sorted({*anchors[:i], moved, *anchors[i + 1 :]}))
