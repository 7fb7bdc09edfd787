"""When to compute: rules, guards and the static table. Pure functions of a `Moment`; no tensors, no state."""

from dcache.schedulers.rules import (
    Above,
    AnyOf,
    Every,
    Last,
    Listed,
    MaxRun,
    Moment,
    Rule,
    Warmup,
    any_of,
)
from dcache.schedulers.table import Table

__all__ = [
    "Above",
    "AnyOf",
    "Every",
    "Last",
    "Listed",
    "MaxRun",
    "Moment",
    "Rule",
    "Table",
    "Warmup",
    "any_of",
]
