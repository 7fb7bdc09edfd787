"""`dcache.schedulers.plans` under its old path, kept for one version: the planners."""

import importlib
import sys
import warnings

from dcache.schedulers.planners import PLANNERS, for_speedup, make, scheduled

__all__ = ["PLANNERS", "for_speedup", "make", "scheduled"]

warnings.warn(
    "dcache.schedulers.plans moved to dcache.schedulers.planners; the old path goes with the next version "
    "(tools/move_imports.py rewrites imports)",
    DeprecationWarning,
    stacklevel=2,
)
for _name in PLANNERS:
    _module = importlib.import_module(f"dcache.schedulers.planners.{_name}")
    # One module under both names: `from dcache.schedulers.plans.bac import plan` works too.
    sys.modules[f"{__name__}.{_name}"] = globals()[_name] = _module
