"""How genomes are varied: k-point crossover and bit flips, with a generator of their own.

Two conventions of a mutation rate are about. ECAD's pymoo setting of 0.05 means that 5 % of the offspring are
mutated at all, each bit of those with 1 / length; elsewhere a rate is of each bit. Both are here by name.
"""

from __future__ import annotations

import random

from dcache.search.space import Genome, Space

# Places of a genome, and what they become.
Move = tuple[tuple[int, int], ...]


def crossover(a: Genome, b: Genome, rng: random.Random, points: int = 4) -> tuple[Genome, Genome]:
    """Exchange the stretches between so many cuts."""
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
    """Flip every bit with this probability; redraw the recipe with it too."""
    bits = tuple(bit ^ (rng.random() < rate) for bit in genome[: space.bits])
    recipe = rng.randrange(len(space.recipes)) if rng.random() < rate else genome[space.bits]
    return (*bits, recipe)


def mutate_some(genome: Genome, space: Space, rng: random.Random, share: float) -> Genome:
    """Mutate this share of the genomes, each bit of those with 1 / length (pymoo's convention)."""
    return mutate_each(genome, space, rng, 1.0 / len(genome)) if rng.random() < share else genome


def shift_one(genome: Genome, space: Space, rng: random.Random) -> Genome:
    """Move one computed evaluation of one unit by one or two places."""
    found = moves(genome, space)
    return moved(genome, rng.choice(found)) if found else genome


def moves(genome: Genome, space: Space) -> list[Move]:
    """All moves of one computed evaluation of one unit by one or two places, and to another recipe.

    Moves, for a genome may have thousands of places, and as many moves: those are few numbers each.
    """
    found: list[Move] = []
    for begin in range(0, space.bits, space.width):
        row = genome[begin : begin + space.width]
        found += [
            ((begin + i, 0), (begin + to, 1))
            for i, bit in enumerate(row)
            for to in ((i - 1, i + 1, i - 2, i + 2) if bit else ())
            if 0 <= to < space.width and not row[to]
        ]
    others = (r for r in range(len(space.recipes)) if r != genome[space.bits])
    return found + [((space.bits, r),) for r in others]


def moved(genome: Genome, move: Move) -> Genome:
    """The genome after a move."""
    found = list(genome)
    for place, value in move:
        found[place] = value
    return tuple(found)


def random_genome(space: Space, rng: random.Random) -> Genome:
    """Each bit with a probability that is drawn once for the genome, so that all densities are met."""
    density = rng.random()
    bits = tuple(int(rng.random() < density) for _ in range(space.bits))
    return (*bits, rng.randrange(len(space.recipes)))
