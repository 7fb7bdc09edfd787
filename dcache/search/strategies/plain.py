"""Random search, and local search around the front."""

from __future__ import annotations

import random

from dcache.search.front import Objectives, nondominated
from dcache.search.space import Genome, Space
from dcache.search.strategies import Told
from dcache.search.variation import neighbours, random_genome


class RandomSearch:
    """Genomes drawn at random, a batch at a time."""

    def __init__(self, space: Space, rng: random.Random, batch: int = 24) -> None:
        self.space, self.rng, self.batch = space, rng, batch

    def ask(self) -> list[Genome]:
        """The next batch."""
        return [random_genome(self.space, self.rng) for _ in range(self.batch)]

    def tell(self, results: Told) -> None:
        """Nothing is learned."""


class LocalSearch:
    """Around every member of the front: one computed evaluation is moved by one or two places.

    Args:
        space: of genomes.
        known: genomes and what came of them, to begin around.
        rng: the order in which neighbours are tried.
        batch: genomes at a time, dealt out over the front so that all of it moves.
    """

    def __init__(self, space: Space, known: Told, rng: random.Random, batch: int = 12) -> None:
        self.space, self.rng, self.batch = space, rng, batch
        self.known: dict[Genome, Objectives] = dict(known)
        self.tried: set[Genome] = set(self.known)

    def ask(self) -> list[Genome]:
        """Untried neighbours of the front, some of each member; none when all were tried."""
        genomes = list(self.known)
        front = [genomes[i] for i in nondominated(list(self.known.values()))]
        queues = []
        for member in front:
            untried = [one for one in neighbours(member, self.space) if one not in self.tried]
            self.rng.shuffle(untried)
            queues.append(untried)
        self.rng.shuffle(queues)
        asked: dict[Genome, None] = {}
        while len(asked) < self.batch and any(queues):
            for queue in queues:
                if queue and len(asked) < self.batch:
                    asked[queue.pop()] = None
        self.tried |= set(asked)
        return list(asked)

    def tell(self, results: Told) -> None:
        """Remember what came of them."""
        self.known |= dict(results)
