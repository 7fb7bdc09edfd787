"""`dcache.sigmas` under its old path."""

from dcache.identity.noise_grid import Grid, put
from dcache.moved import warn
from dcache.schedule.noise_levels import adjusted, check_grid

__all__ = ["Grid", "adjusted", "check_grid", "put"]

warn("dcache.sigmas", "dcache.schedule.noise_levels")
