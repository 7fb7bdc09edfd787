"""Variation of genomes: k-point crossover, bit flips and moves, with a random generator that is passed in.

A mutation rate has two meanings in the literature. ECAD's 0.05 is pymoo's: 5 % of the offspring are mutated,
each of their bits with probability 1 / length (`mutate_some`). Elsewhere it is the probability of each bit
(`mutate_each`).
"""

from __future__ import annotations

import random

from dcache.search.genomes.space import Genome, Space

# Index and new value of every place that changes.
Move = tuple[tuple[int, int], ...]


def crossover(a: Genome, b: Genome, rng: random.Random, points: int = 4) -> tuple[Genome, Genome]:
    """Exchange every second stretch between `points` random cuts."""
    cuts = sorted(rng.sample(range(1, len(a)), min(points, len(a) - 1)))
    swapped, begin = False, 0
    first: list[int] = []
    second: list[int] = []
    for cut in (*cuts, len(a)):
        x, y = (b, a) if swapped else (a, b)
        first += x[begin:cut]
        second += y[begin:cut]
        swapped, begin = not swapped, cut
    return tuple(first), tuple(second)


def mutate_each(genome: Genome, space: Space, rng: random.Random, rate: float) -> Genome:
    """Flip each bit with probability `rate`; redraw the recipe with the same probability."""
    bits = tuple(bit ^ (rng.random() < rate) for bit in genome[: space.bits])
    recipe = rng.randrange(len(space.recipes)) if rng.random() < rate else genome[space.bits]
    return (*bits, recipe)


def mutate_some(genome: Genome, space: Space, rng: random.Random, share: float) -> Genome:
    """Mutate a genome with probability `share`, each of its bits with 1 / length (pymoo's convention)."""
    return mutate_each(genome, space, rng, 1.0 / len(genome)) if rng.random() < share else genome


def shift_one(genome: Genome, space: Space, rng: random.Random) -> Genome:
    """Apply one random move of `moves`; the genome itself if there is none."""
    options = moves(genome, space)
    return moved(genome, rng.choice(options)) if options else genome


def moves(genome: Genome, space: Space) -> list[Move]:
    """All moves of one computed evaluation of one unit by one or two places, and changes of the recipe.

    Returns moves, not genomes: a genome may have thousands of places and as many moves, each a few numbers.
    """
    shifts: list[Move] = []
    for begin in range(0, space.bits, space.width):
        row = genome[begin : begin + space.width]
        shifts += [
            ((begin + i, 0), (begin + to, 1))
            for i, bit in enumerate(row)
            for to in ((i - 1, i + 1, i - 2, i + 2) if bit else ())
            if 0 <= to < space.width and not row[to]
        ]
    others = (r for r in range(len(space.recipes)) if r != genome[space.bits])
    return shifts + [((space.bits, r),) for r in others]


def moved(genome: Genome, move: Move) -> Genome:
    """The genome after a move."""
    places = list(genome)
    for place, value in move:
        places[place] = value
    return tuple(places)


def random_genome(space: Space, rng: random.Random) -> Genome:
    """A random genome. The probability of a set bit is drawn once for each, so that all densities occur."""
    density = rng.random()
    bits = tuple(int(rng.random() < density) for _ in range(space.bits))
    return (*bits, rng.randrange(len(space.recipes)))
