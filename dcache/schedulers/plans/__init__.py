"""`dcache.schedulers.plans` under its old path, kept until 0.3: the planners."""

import importlib
import sys

from dcache.schedulers.planners import PLANNERS, for_speedup, make, scheduled
from dcache.util.renamed import warn_moved

__all__ = ["PLANNERS", "for_speedup", "make", "scheduled"]

warn_moved("dcache.schedulers.plans", "dcache.schedulers.planners")
for _name in PLANNERS:
    _module = importlib.import_module(f"dcache.schedulers.planners.{_name}")
    # One module under both names: `from dcache.schedulers.plans.bac import plan` works too.
    sys.modules[f"{__name__}.{_name}"] = globals()[_name] = _module
