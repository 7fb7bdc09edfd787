"""Strategies by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from dcache.search.genomes.space import Space
from dcache.search.strategies import Evaluated, Strategy
from dcache.search.strategies.map_elites import MapElites
from dcache.search.strategies.nsga2 import NSGA2
from dcache.search.strategies.random_and_local import RandomSearch
from dcache.util.registry import Registry


@dataclass(frozen=True)
class Start:
    """Arguments for making a strategy.

    Attributes:
        space: the space of genomes.
        known: genomes evaluated before: both ends of the front and the seeds.
        rng: source of all random decisions.
        uncached: cost with everything computed.
        population: genomes in a generation or batch.
        mutation: mutation rate; None for the strategy's default.
        convention: `each` or `some`, the meaning of the rate, as in `SearchConfig`.
    """

    space: Space
    known: Evaluated
    rng: random.Random
    uncached: float
    population: int
    mutation: float | None
    convention: str


# None stands for `local`: seeds only, then the local search that follows every strategy.
Maker = Callable[[Start], Strategy] | None


def _nsga2(start: Start) -> Strategy:
    # With `some` the default is ECAD's rate: 5 % of the offspring.
    mutation = 0.05 if start.mutation is None and start.convention == "some" else start.mutation
    return NSGA2(
        start.space,
        start.known,
        start.rng,
        population=start.population,
        mutation=mutation,
        convention=start.convention,
    )


def _map_elites(start: Start) -> Strategy:
    return MapElites(start.space, start.known, start.rng, start.uncached, batch=start.population)


def _random(start: Start) -> Strategy:
    return RandomSearch(start.space, start.rng, start.population)


STRATEGIES: Registry[Maker] = Registry("strategy")
STRATEGIES.register("nsga2", _nsga2)
STRATEGIES.register("map-elites", _map_elites)
STRATEGIES.register("random", _random)
STRATEGIES.register("local", None)


def register(name: str, maker: Callable[[Start], Strategy]) -> None:
    """Register a strategy, so that `dcache search --strategy NAME` finds it.

    Raises:
        DcacheError: another strategy has this name.
    """
    STRATEGIES.register(name, maker)
