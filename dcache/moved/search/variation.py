"""`dcache.search.variation` under its old path."""

from dcache.search.genomes.variation import (
    crossover,
    moved,
    moves,
    mutate_each,
    mutate_some,
    random_genome,
    shift_one,
)
from dcache.util.renamed import warn_moved

__all__ = ["crossover", "moved", "moves", "mutate_each", "mutate_some", "random_genome", "shift_one"]

warn_moved("dcache.search.variation", "dcache.search.genomes.variation")
