"""The schedule: a portable table evaluation x site, its file, its canonical form, its noise levels."""

from dcache.schedule.plan import Plan, Rows
from dcache.schedule.schedule import Schedule

__all__ = ["Plan", "Rows", "Schedule"]
