"""`dcache.eval.entries` under its old path, kept for one version."""

import warnings

from dcache.eval.entries import BenchEntry as Contestant
from dcache.eval.entries import CallResult as Outcome

__all__ = ["Contestant", "Outcome"]

warnings.warn(
    "dcache.eval.contest moved to dcache.eval.entries; the old path goes with the next version",
    DeprecationWarning,
    stacklevel=2,
)
