"""`dcache.search.cost_check` under its old path."""

from dcache.moved import warn
from dcache.search.observing.cost_check import CostCheck, check_cost

__all__ = ["CostCheck", "check_cost"]

warn("dcache.search.cost_check", "dcache.search.observing.cost_check")
