"""Strategies: what to evaluate next. All are asked for genomes and told what came of them, nothing else.

A strategy is deterministic for its seed and what it is told, so that a search which is resumed, or shared by
several processes, does again what it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dcache.search.front import Objectives
from dcache.search.space import Genome

Told = Sequence[tuple[Genome, Objectives]]


class Strategy(Protocol):
    """What `dcache.search.loop` needs of a strategy."""

    def ask(self) -> list[Genome]:
        """The next batch of genomes, any of which may have been asked for before; none when it is done."""
        ...

    def tell(self, results: Told) -> None:
        """What came of the batch: of as many of its genomes as the budget allowed, in its order."""
        ...
