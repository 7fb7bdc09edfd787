"""The schedule: a table evaluation x site, with its file, its canonical form and its noise levels."""

from dcache.schedule.plan import Plan, Rows
from dcache.schedule.schedule import Schedule

__all__ = ["Plan", "Rows", "Schedule"]
