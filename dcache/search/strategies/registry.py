"""Strategies by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from dcache.search.space import Space
from dcache.search.strategies import Strategy, Told
from dcache.search.strategies.map_elites import MapElites
from dcache.search.strategies.nsga2 import NSGA2
from dcache.search.strategies.random_and_local import RandomSearch
from dcache.util.registry import Registry


@dataclass(frozen=True)
class Start:
    """What a strategy is made from.

    Attributes:
        space: of genomes.
        known: what was evaluated: both ends of the front and the seeds.
        rng: decides everything.
        uncached: the cost with everything computed.
        population: of a generation or batch.
        mutation: rate, None for the strategy's own.
        convention: `each` bit at that rate, or `some` of the offspring at all.
    """

    space: Space
    known: Told
    rng: random.Random
    uncached: float
    population: int
    mutation: float | None
    convention: str


# None begins with seeds alone; the local search, which ends every other one too, does the rest.
Maker = Callable[[Start], Strategy] | None


def _nsga2(start: Start) -> Strategy:
    # ECAD's rate, of the offspring.
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
    """Make a strategy known by name to `dcache search`.

    Raises:
        DcacheError: another strategy has this name.
    """
    STRATEGIES.register(name, maker)
