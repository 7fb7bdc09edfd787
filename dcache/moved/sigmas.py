"""`dcache.sigmas` under its old path."""

from dcache.identity.noise_grid import Grid, put
from dcache.schedule.noise_levels import adjusted, check_grid
from dcache.util.renamed import warn_moved

__all__ = ["Grid", "adjusted", "check_grid", "put"]

warn_moved("dcache.sigmas", "dcache.schedule.noise_levels")
