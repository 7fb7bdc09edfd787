"""Search strategies, with the ask/tell interface: `ask` proposes genomes, `tell` receives their objectives.

A strategy must be deterministic for its seed and the objectives it receives. A resumed search, and every
process of a launch, replays the strategy and must get the same proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dcache.search.genomes.front import Objectives
from dcache.search.genomes.space import Genome

# Genomes with their objectives, which are minimised.
Evaluated = Sequence[tuple[Genome, Objectives]]


class Strategy(Protocol):
    """Interface of a strategy; register one with `dcache.search.strategies.registry.register`."""

    def ask(self) -> list[Genome]:
        """Propose the next batch of genomes; repeats are allowed, an empty list ends the strategy."""
        ...

    def tell(self, results: Evaluated) -> None:
        """Receive the objectives of the batch, in its order; fewer than proposed if the budget ran out."""
        ...
