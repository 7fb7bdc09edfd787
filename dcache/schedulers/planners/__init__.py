"""Planners: pure functions from a profile to a schedule, one file each, and their common algorithms."""

from dcache.schedulers.planners.registry import PLANNERS, for_speedup, make, register, scheduled

__all__ = ["PLANNERS", "for_speedup", "make", "register", "scheduled"]
