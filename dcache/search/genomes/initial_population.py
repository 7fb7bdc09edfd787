"""The first genomes of a search: templates, and plans of every planner that the profile has tables for."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from itertools import chain, zip_longest
from typing import TypeVar

from dcache.errors import DcacheError, DcacheWarning
from dcache.schedulers.planners import PLANNERS, for_speedup
from dcache.search.fitting.placement import even_places, front_loaded_places
from dcache.search.genomes.space import Genome, Space

T = TypeVar("T", bound=Hashable)
# The usual speedups first, because a small budget does not reach all of them.
SPEEDUPS = (3.0, 2.0, 4.0, 2.5, 1.5)


def templates(space: Space) -> list[Genome]:
    """Regular schedules with every recipe.

    First all units together, at even and at front-loaded places, from every second evaluation to one in
    eight. Then each unit alone at every third evaluation, the others computed throughout (FORA on one kind of
    sublayer, as in ECAD's first population).
    """
    steps, units = space.profile.steps, len(space.units)
    counts = dict.fromkeys(max(1, -(-steps // n)) for n in (4, 3, 5, 2, 6, 7, 8))
    rows = [
        [t in at(count, steps) for t in range(steps)]
        for count in counts
        for at in (even_places, front_loaded_places)
    ]
    # Diagonal order, so that a small budget still reaches several densities and recipes.
    pairs = sorted(((i, r) for i in range(len(rows)) for r in range(len(space.recipes))), key=sum)
    genomes = [space.genome([rows[i]] * units, r) for i, r in pairs]
    if units > 1:
        all_of, third = [True] * steps, [t % 3 == 0 for t in range(steps)]
        alone = [[third if i == chosen else all_of for i in range(units)] for chosen in range(min(units, 6))]
        genomes += [space.genome(rows_of) for rows_of in alone]
    return genomes


# Its plans are those of `pairs` with other weights, and every seed costs an evaluation.
_LEFT_OUT = ("tuned",)


def cheapest(space: Space) -> Genome:
    """The cheapest genome: evaluation 0 alone is computed, and reused if a recipe for that is available."""
    row = [True] + [False] * (space.profile.steps - 1)
    reuses = (i for i, recipe in enumerate(space.recipes) if recipe.codec is None)
    return space.genome([row] * len(space.units), next(reuses, 0))


def planned(space: Space, speedups: Sequence[float] = SPEEDUPS) -> list[Genome]:
    """The plans of the planners at every speedup they reach, each as the nearest genome of the space."""
    genomes = []
    for speedup in speedups:
        for name in (name for name in PLANNERS if name not in _LEFT_OUT):
            try:
                with warnings.catch_warnings():
                    # A planner may warn of a poor fit; a poor seed does no harm.
                    warnings.simplefilter("ignore", DcacheWarning)
                    schedule = for_speedup(space.profile, name, speedup)
            except DcacheError:
                # The planner needs tables that were not observed, or does not reach this speedup.
                continue
            genomes += [space.nearest(schedule, r) for r in range(len(space.recipes))]
    return list(dict.fromkeys(genomes))


def interleaved(*lists: Sequence[T]) -> list[T]:
    """The first items of all lists, then the second ones, and so on, without duplicates."""
    turns = chain.from_iterable(zip_longest(*lists))
    return list(dict.fromkeys(item for item in turns if item is not None))
