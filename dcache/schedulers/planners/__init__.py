"""Planners: pure functions from a profile to a schedule, one file each; the algorithms they share."""

from dcache.schedulers.planners.registry import PLANNERS, for_speedup, make, register, scheduled

__all__ = ["PLANNERS", "for_speedup", "make", "register", "scheduled"]
