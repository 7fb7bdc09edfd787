"""Random search, and local search around the front."""

from __future__ import annotations

import random
from collections.abc import Sequence

from dcache.search.genomes.front import Objectives, nondominated
from dcache.search.genomes.space import Genome, Space
from dcache.search.genomes.variation import Move, moved, moves, random_genome
from dcache.search.strategies import Evaluated


class RandomSearch:
    """Genomes drawn at random, a batch at a time."""

    def __init__(self, space: Space, rng: random.Random, batch: int = 24) -> None:
        self.space, self.rng, self.batch = space, rng, batch

    def ask(self) -> list[Genome]:
        """Propose a random batch."""
        return [random_genome(self.space, self.rng) for _ in range(self.batch)]

    def tell(self, results: Evaluated) -> None:
        """Ignore the results."""


# Number of best genomes within a cost limit whose neighbours are proposed.
BEAM = 4


class LocalSearch:
    """Proposes neighbours of every genome of the front: one computed evaluation moved by one or two places.

    Args:
        space: the space of genomes.
        known: genomes evaluated before.
        rng: shuffles the order of the neighbours.
        batch: genomes in a batch, spread evenly over the front.
        limits: costs; half of each batch are neighbours of the best few genomes within each limit.
    """

    def __init__(
        self,
        space: Space,
        known: Evaluated,
        rng: random.Random,
        batch: int = 12,
        limits: Sequence[float] = (),
    ) -> None:
        self.space, self.rng, self.batch, self.limits = space, rng, batch, limits
        self.known: dict[Genome, Objectives] = dict(known)
        self.tried: set[Genome] = set(self.known)

    def ask(self) -> list[Genome]:
        """Propose untried neighbours of the front, some of each genome; empty when all were tried."""
        genomes, values = list(self.known), list(self.known.values())
        front = [genomes[i] for i in nondominated(values)]
        near: list[Genome] = []
        for limit in self.limits:
            # More than the best one: its neighbours are few, and all of them may be worse.
            within = [(values[1:], genome) for genome, values in self.known.items() if values[0] <= limit]
            near += [genome for _, genome in sorted(within)[:BEAM]]
        asked = self._dealt(list(dict.fromkeys(near)), self.batch // 2)
        return asked + self._dealt(front, self.batch - len(asked))

    def _dealt(self, members: Sequence[Genome], count: int) -> list[Genome]:
        """`count` untried neighbours, taken in turns from all members."""
        queues: list[tuple[Genome, list[Move]]] = []
        for member in members:
            neighbours = moves(member, self.space)
            self.rng.shuffle(neighbours)
            queues.append((member, neighbours))
        self.rng.shuffle(queues)
        asked: list[Genome] = []
        while len(asked) < count and any(left for _, left in queues):
            for member, left in queues:
                untried = self._untried(member, left) if len(asked) < count else None
                if untried is not None:
                    asked.append(untried)
                    self.tried.add(untried)
        return asked

    def _untried(self, member: Genome, left: list[Move]) -> Genome | None:
        """The next neighbour that was not tried; None if there is none left."""
        while left:
            neighbour = moved(member, left.pop())
            if neighbour not in self.tried:
                return neighbour
        return None

    def tell(self, results: Evaluated) -> None:
        """Add the results to the known genomes."""
        self.known |= dict(results)
