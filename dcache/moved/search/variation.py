"""`dcache.search.variation` under its old path."""

from dcache.moved import warn
from dcache.search.genomes.variation import (
    crossover,
    moved,
    moves,
    mutate_each,
    mutate_some,
    random_genome,
    shift_one,
)

__all__ = ["crossover", "moved", "moves", "mutate_each", "mutate_some", "random_genome", "shift_one"]

warn("dcache.search.variation", "dcache.search.genomes.variation")
