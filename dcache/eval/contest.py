"""`dcache.eval.entries` under its old path, kept until 0.3."""

from dcache.eval.entries import BenchEntry as Contestant
from dcache.eval.entries import CallResult as Outcome
from dcache.util.renamed import warn_moved

__all__ = ["Contestant", "Outcome"]

warn_moved("dcache.eval.contest", "dcache.eval.entries")
