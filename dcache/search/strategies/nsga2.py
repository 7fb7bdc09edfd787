"""NSGA-II (Deb et al. 2002), as ECAD (2025) uses it: tournament, 4-point crossover, bit flips.

DEAP sorts and selects. All random draws are made here, from the generator that is passed in, because DEAP's
own variation uses Python's global generator.
"""

from __future__ import annotations

import random
from typing import Any

from dcache.search.genomes.front import Objectives
from dcache.search.genomes.space import Genome, Space
from dcache.search.genomes.variation import crossover, mutate_each, mutate_some, random_genome
from dcache.search.strategies import Evaluated

CONVENTIONS = ("each", "some")


class NSGA2:
    """One batch is one generation.

    Args:
        space: the space of genomes.
        known: genomes evaluated before, the candidates for the first parents; random genomes fill up the
            population.
        rng: source of all random decisions.
        population: genomes in a generation.
        crossing: probability that two parents are crossed.
        mutation: mutation rate, with the meaning of `convention`; None is two bits of a genome.
        convention: `each`: every bit flips at that rate; `some`: that share of the offspring is mutated
            (ECAD).
    """

    def __init__(
        self,
        space: Space,
        known: Evaluated,
        rng: random.Random,
        population: int = 24,
        crossing: float = 0.9,
        mutation: float | None = None,
        convention: str = "each",
    ) -> None:
        self.space, self.rng, self.size, self.crossing = space, rng, population, crossing
        self.mutation = 2.0 / (space.bits + 1) if mutation is None else mutation
        self.convention = convention
        self.parents: list[Any] = [_individual(genome, objectives) for genome, objectives in known]
        self.asked = [random_genome(space, rng) for _ in range(population - len(known))]
        if not self.asked:
            self.tell(())

    def ask(self) -> list[Genome]:
        """Propose the next generation."""
        return self.asked

    def tell(self, results: Evaluated) -> None:
        """Select by rank and crowding distance among parents and offspring, and breed the next generation."""
        from deap import tools

        offspring = [_individual(genome, objectives) for genome, objectives in results]
        # Without duplicates: equal individuals take each other's crowding distance, and the front could lose
        # its ends.
        known = {tuple(individual): individual for individual in (*self.parents, *offspring)}
        self.parents = tools.selNSGA2(list(known.values()), min(self.size, len(known)))
        self.asked = self._bred()

    def _bred(self) -> list[Genome]:
        chosen = self._tournament() or [tuple(genome) for genome in self.parents]
        while len(chosen) < self.size:
            chosen.append(random_genome(self.space, self.rng))
        bred: list[Genome] = []
        for a, b in zip(chosen[::2], chosen[1::2], strict=False):
            pair = crossover(a, b, self.rng) if self.rng.random() < self.crossing else (a, b)
            bred += [self._mutated(genome) for genome in pair]
        return bred

    def _tournament(self) -> list[Genome]:
        """Winners of two tournament rounds, in each of which every parent meets one other."""
        rounds = [self.rng.sample(self.parents, len(self.parents)) for _ in range(2)]
        pairs = [pair for order in rounds for pair in zip(order[::2], order[1::2], strict=False)]
        return [tuple(self._winner(a, b)) for a, b in pairs]

    def _winner(self, a: Any, b: Any) -> Any:
        """The dominating individual; if neither dominates, the less crowded one; if equal, a random one."""
        if a.fitness.dominates(b.fitness) or b.fitness.dominates(a.fitness):
            return a if a.fitness.dominates(b.fitness) else b
        if a.fitness.crowding_dist != b.fitness.crowding_dist:
            return max(a, b, key=lambda individual: individual.fitness.crowding_dist)
        return self.rng.choice((a, b))

    def _mutated(self, genome: Genome) -> Genome:
        mutate = mutate_each if self.convention == "each" else mutate_some
        return mutate(genome, self.space, self.rng, self.mutation)


def _individual(genome: Genome, objectives: Objectives) -> Any:
    """An individual for DEAP: a list with a fitness of minimised objectives."""
    from deap import base

    minimised = type("Minimised", (base.Fitness,), {"weights": (-1.0,) * len(objectives)})
    individual = type("Individual", (list,), {})(genome)
    individual.fitness = minimised(objectives)
    return individual
