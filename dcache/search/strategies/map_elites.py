"""MAP-Elites (Mouret & Clune 2015): the best genomes of every cell of an archive.

Cells are bins of the cost and of the mean position of the computed evaluations. With several metrics a cell
keeps its nondominated genomes (MOME, Pierrot et al. 2022).
"""

from __future__ import annotations

import random

from dcache.search.genomes.front import WORST, Objectives, nondominated
from dcache.search.genomes.space import Genome, Space
from dcache.search.genomes.variation import mutate_each, random_genome, shift_one
from dcache.search.strategies import Evaluated

Cell = tuple[int, int]


class MapElites:
    """An archive of cells; elites are drawn at random and mutated, without crossover.

    Args:
        space: the space of genomes.
        known: genomes evaluated before; random genomes fill up the first batch.
        rng: source of all random decisions.
        full: cost of a genome without predictions, the upper end of the first objective.
        cells: number of bins of the cost, and of the mean position of the computed evaluations.
        batch: genomes in a batch.
    """

    def __init__(
        self,
        space: Space,
        known: Evaluated,
        rng: random.Random,
        full: float,
        cells: Cell = (20, 8),
        batch: int = 24,
    ) -> None:
        self.space, self.rng, self.full, self.cells, self.batch = space, rng, full, cells, batch
        self.elites: dict[Cell, list[tuple[Genome, Objectives]]] = {}
        self.asked = [random_genome(space, rng) for _ in range(batch - len(known))]
        self._keep(known)
        self.asked = self.asked or [self._varied() for _ in range(batch)]

    def ask(self) -> list[Genome]:
        """Propose the next batch."""
        return self.asked

    def tell(self, results: Evaluated) -> None:
        """Update the elites of the cells, and mutate elites into the next batch."""
        self._keep(results)
        self.asked = [self._varied() for _ in range(self.batch)]

    def _keep(self, results: Evaluated) -> None:
        for genome, objectives in results:
            if objectives[0] >= WORST:
                continue
            elites = self.elites.setdefault(self.cell(genome, objectives), [])
            elites.append((genome, objectives))
            # Compared by metrics only: costs within a cell are similar. Of equal genomes the first stays.
            elites[:] = [elites[i] for i in nondominated([values[1:] for _, values in elites])]

    def cell(self, genome: Genome, objectives: Objectives) -> Cell:
        """The cell of a genome with these objectives."""
        bits = genome[: self.space.bits]
        places = [i % self.space.width + 1 for i, bit in enumerate(bits) if bit]
        centre = sum(places) / len(places) / self.space.width if places else 0.0
        where = (objectives[0] / self.full, centre)
        low, high = (min(int(x * n), n - 1) for x, n in zip(where, self.cells, strict=True))
        return low, high

    def _varied(self) -> Genome:
        if not self.elites:
            return random_genome(self.space, self.rng)
        genome, _ = self.rng.choice(self.elites[self.rng.choice(sorted(self.elites))])
        moved = shift_one(genome, self.space, self.rng)
        return moved if self.rng.random() < 0.5 else mutate_each(moved, self.space, self.rng, 2 / len(genome))
