"""What a search begins with: templates, and the plans of every planner that the profile has tables for."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from itertools import chain, zip_longest
from typing import TypeVar

from dcache.errors import DcacheError, DcacheWarning
from dcache.schedulers.planners import PLANNERS, for_speedup
from dcache.search.placement import even_places, front_loaded_places
from dcache.search.space import Genome, Space

T = TypeVar("T", bound=Hashable)
# Those that most people ask for first: of a small budget not all have their turn.
SPEEDUPS = (3.0, 2.0, 4.0, 2.5, 1.5)


def templates(space: Space) -> list[Genome]:
    """All units at even places and at early ones, from every second evaluation to one in eight, every recipe.

    Then each unit alone at every third one, the others computed throughout (FORA on one kind, as ECAD's
    first population has it).
    """
    steps, units = space.profile.steps, len(space.units)
    counts = dict.fromkeys(max(1, -(-steps // n)) for n in (4, 3, 5, 2, 6, 7, 8))
    rows = [
        [t in at(count, steps) for t in range(steps)]
        for count in counts
        for at in (even_places, front_loaded_places)
    ]
    # Diagonally: of a small budget all densities and all recipes have their turn.
    pairs = sorted(((i, r) for i in range(len(rows)) for r in range(len(space.recipes))), key=sum)
    found = [space.genome([rows[i]] * units, r) for i, r in pairs]
    if units > 1:
        all_of, third = [True] * steps, [t % 3 == 0 for t in range(steps)]
        alone = [[third if i == own else all_of for i in range(units)] for own in range(min(units, 6))]
        found += [space.genome(rows_of) for rows_of in alone]
    return found


def cheapest(space: Space) -> Genome:
    """The one compute that nothing is cheaper than, by reuse where there is that recipe."""
    row = [True] + [False] * (space.profile.steps - 1)
    reuses = (i for i, recipe in enumerate(space.recipes) if recipe.codec is None)
    return space.genome([row] * len(space.units), next(reuses, 0))


def planned(space: Space, speedups: Sequence[float] = SPEEDUPS) -> list[Genome]:
    """Every planner at every speedup that it reaches, in the terms of the space."""
    found = []
    for speedup in speedups:
        for name in PLANNERS:
            try:
                with warnings.catch_warnings():
                    # A poor fit makes a poor seed, and no harm.
                    warnings.simplefilter("ignore", DcacheWarning)
                    schedule = for_speedup(space.profile, name, speedup)
            except DcacheError:
                # It needs tables that were not observed, or is not that fast here.
                continue
            found += [space.nearest(schedule, r) for r in range(len(space.recipes))]
    return list(dict.fromkeys(found))


def interleaved(*lists: Sequence[T]) -> list[T]:
    """The first of each, the second of each, and so on; each once."""
    turns = chain.from_iterable(zip_longest(*lists))
    return list(dict.fromkeys(one for one in turns if one is not None))
