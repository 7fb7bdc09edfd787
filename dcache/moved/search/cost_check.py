"""`dcache.search.cost_check` under its old path."""

from dcache.search.observing.cost_check import CostCheck, check_cost
from dcache.util.renamed import warn_moved

__all__ = ["CostCheck", "check_cost"]

warn_moved("dcache.search.cost_check", "dcache.search.observing.cost_check")
