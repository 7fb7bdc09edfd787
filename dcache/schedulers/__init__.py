"""When to compute: rules, guards and the static table. Pure functions of a `StepContext`; no tensors.

`rules.py` has the basic rules and guards, `accumulate.py` rules that sum up an error, `combine.py` rules made
of rules, `table.py` the rule of a schedule.
"""

from typing import TYPE_CHECKING

from dcache.schedulers.accumulate import Accumulated, MagCacheRule
from dcache.schedulers.combine import (
    ByKind,
    BySite,
    DeltaDitStages,
    EveryNthIndex,
    OutsideWindow,
    StepTable,
    Switch,
)
from dcache.schedulers.growing import Growing
from dcache.schedulers.rules import (
    AnyOf,
    ChangeAbove,
    Every,
    KnownLength,
    Last,
    Listed,
    MaxRun,
    Retention,
    Rule,
    StepContext,
    Warmup,
    any_of,
    guarded,
    may_predict,
)
from dcache.schedulers.shrinking import Shrinking
from dcache.schedulers.steered import Steered
from dcache.schedulers.table import Table
from dcache.util.renamed import renamed

__all__ = [
    "Accumulated",
    "AnyOf",
    "ByKind",
    "BySite",
    "ChangeAbove",
    "DeltaDitStages",
    "Every",
    "EveryNthIndex",
    "Growing",
    "KnownLength",
    "Last",
    "Listed",
    "MagCacheRule",
    "MaxRun",
    "OutsideWindow",
    "Retention",
    "Rule",
    "Shrinking",
    "Steered",
    "StepContext",
    "StepTable",
    "Switch",
    "Table",
    "Warmup",
    "any_of",
    "guarded",
    "may_predict",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(
        __name__,
        {
            "Moment": "StepContext",
            "Above": "ChangeAbove",
            "Outside": "OutsideWindow",
            "Multiple": "EveryNthIndex",
            "Magnitude": "MagCacheRule",
            "Stage": "DeltaDitStages",
            "Row": "StepTable",
        },
    )
