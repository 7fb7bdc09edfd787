"""When to compute: rules, guards and the static table. Pure functions of a `Moment`; no tensors.

`rules.py` has the plain rules and guards, `accumulate.py` those that add up a drift, `combine.py` rules made
of rules, `table.py` the schedule's own.
"""

from dcache.schedulers.accumulate import Accumulated, Magnitude
from dcache.schedulers.combine import ByKind, BySite, Multiple, Outside, Row, Stage, Switch
from dcache.schedulers.rules import (
    Above,
    AnyOf,
    Every,
    Last,
    Listed,
    MaxRun,
    Moment,
    Retention,
    Rule,
    Warmup,
    any_of,
    guarded,
    may_predict,
)
from dcache.schedulers.shrinking import Shrinking
from dcache.schedulers.table import Table

__all__ = [
    "Above",
    "Accumulated",
    "AnyOf",
    "ByKind",
    "BySite",
    "Every",
    "Last",
    "Listed",
    "Magnitude",
    "MaxRun",
    "Moment",
    "Multiple",
    "Outside",
    "Retention",
    "Row",
    "Rule",
    "Shrinking",
    "Stage",
    "Switch",
    "Table",
    "Warmup",
    "any_of",
    "guarded",
    "may_predict",
]
