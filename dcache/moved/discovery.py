"""`dcache.discovery` under its old path."""

from dcache.sites.discovery import discover, find_blocks, find_long_skips, find_skips, find_sublayers
from dcache.util.renamed import warn_moved

__all__ = ["discover", "find_blocks", "find_long_skips", "find_skips", "find_sublayers"]

warn_moved("dcache.discovery", "dcache.sites")
