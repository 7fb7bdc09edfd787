"""NSGA-II (Deb et al. 2002), as ECAD (2025) uses it: tournament, 4-point crossover, bit flips.

DEAP sorts and selects; whatever is random is drawn here, from the generator that is passed in.
"""

from __future__ import annotations

import random
from typing import Any

from dcache.search.front import Objectives
from dcache.search.space import Genome, Space
from dcache.search.strategies import Told
from dcache.search.variation import crossover, mutate_each, mutate_some, random_genome

CONVENTIONS = ("each", "some")


class NSGA2:
    """A population that is asked for as a whole, generation by generation.

    Args:
        space: of genomes.
        known: what was evaluated, the best of which are the first parents; random genomes fill them up.
        rng: decides everything.
        population: genomes of a generation.
        crossing: probability that two parents are crossed.
        mutation: a rate, in the sense of `convention`.
        convention: `each` bit is flipped at that rate, or `some` of the offspring are mutated at all (ECAD).
    """

    def __init__(
        self,
        space: Space,
        known: Told,
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
        """The next generation."""
        return self.asked

    def tell(self, results: Told) -> None:
        """Select by rank and crowding among parents and offspring, breed the next generation."""
        from deap import tools

        offspring = [_individual(genome, objectives) for genome, objectives in results]
        # Twins would crowd each other out of the front's ends.
        known = {tuple(one): one for one in (*self.parents, *offspring)}
        self.parents = tools.selNSGA2(list(known.values()), min(self.size, len(known)))
        self.asked = self._bred()

    def _bred(self) -> list[Genome]:
        chosen = self._tournament() or [tuple(one) for one in self.parents]
        while len(chosen) < self.size:
            chosen.append(random_genome(self.space, self.rng))
        bred: list[Genome] = []
        for a, b in zip(chosen[::2], chosen[1::2], strict=False):
            pair = crossover(a, b, self.rng) if self.rng.random() < self.crossing else (a, b)
            bred += [self._mutated(one) for one in pair]
        return bred

    def _tournament(self) -> list[Genome]:
        """The winners of two rounds, in which every parent meets another; as many as there are parents."""
        rounds = [self.rng.sample(self.parents, len(self.parents)) for _ in range(2)]
        pairs = [pair for order in rounds for pair in zip(order[::2], order[1::2], strict=False)]
        return [tuple(self._winner(a, b)) for a, b in pairs]

    def _winner(self, a: Any, b: Any) -> Any:
        """The one that dominates the other, else the one in the less crowded place, else either."""
        if a.fitness.dominates(b.fitness) or b.fitness.dominates(a.fitness):
            return a if a.fitness.dominates(b.fitness) else b
        if a.fitness.crowding_dist != b.fitness.crowding_dist:
            return max(a, b, key=lambda one: one.fitness.crowding_dist)
        return self.rng.choice((a, b))

    def _mutated(self, genome: Genome) -> Genome:
        mutate = mutate_each if self.convention == "each" else mutate_some
        return mutate(genome, self.space, self.rng, self.mutation)


def _individual(genome: Genome, objectives: Objectives) -> Any:
    """What DEAP works on: a list with a fitness, here of objectives that are minimised."""
    from deap import base

    minimised = type("Minimised", (base.Fitness,), {"weights": (-1.0,) * len(objectives)})
    one = type("Individual", (list,), {})(genome)
    one.fitness = minimised(objectives)
    return one
