"""Random search, and local search around the front."""

from __future__ import annotations

import random
from collections.abc import Sequence

from dcache.search.front import Objectives, nondominated
from dcache.search.space import Genome, Space
from dcache.search.strategies import Told
from dcache.search.variation import Move, moved, moves, random_genome


class RandomSearch:
    """Genomes drawn at random, a batch at a time."""

    def __init__(self, space: Space, rng: random.Random, batch: int = 24) -> None:
        self.space, self.rng, self.batch = space, rng, batch

    def ask(self) -> list[Genome]:
        """The next batch."""
        return [random_genome(self.space, self.rng) for _ in range(self.batch)]

    def tell(self, results: Told) -> None:
        """Nothing is learned."""


# How many of the best within a limit are moved.
BEAM = 4


class LocalSearch:
    """Around every member of the front: one computed evaluation is moved by one or two places.

    Args:
        space: of genomes.
        known: genomes and what came of them, to begin around.
        rng: the order in which neighbours are tried.
        batch: genomes at a time, dealt out over the front so that all of it moves.
        limits: costs; half of each batch is around the few best within each of them.
    """

    def __init__(
        self,
        space: Space,
        known: Told,
        rng: random.Random,
        batch: int = 12,
        limits: Sequence[float] = (),
    ) -> None:
        self.space, self.rng, self.batch, self.limits = space, rng, batch, limits
        self.known: dict[Genome, Objectives] = dict(known)
        self.tried: set[Genome] = set(self.known)

    def ask(self) -> list[Genome]:
        """Untried neighbours of the front, some of each member; none when all were tried."""
        genomes, values = list(self.known), list(self.known.values())
        front = [genomes[i] for i in nondominated(values)]
        near: list[Genome] = []
        for limit in self.limits:
            # Not the best alone: it has few neighbours, and all of them may be worse.
            within = [(told[1:], genome) for genome, told in self.known.items() if told[0] <= limit]
            near += [genome for _, genome in sorted(within)[:BEAM]]
        asked = self._dealt(list(dict.fromkeys(near)), self.batch // 2)
        return asked + self._dealt(front, self.batch - len(asked))

    def _dealt(self, members: Sequence[Genome], count: int) -> list[Genome]:
        """So many untried neighbours, the same number of each member as far as there are any."""
        queues: list[tuple[Genome, list[Move]]] = []
        for member in members:
            found = moves(member, self.space)
            self.rng.shuffle(found)
            queues.append((member, found))
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
        """The next neighbour that was not tried, None if there is none left."""
        while left:
            one = moved(member, left.pop())
            if one not in self.tried:
                return one
        return None

    def tell(self, results: Told) -> None:
        """Remember what came of them."""
        self.known |= dict(results)
