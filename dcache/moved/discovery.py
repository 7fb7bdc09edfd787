"""`dcache.discovery` under its old path."""

from dcache.moved import warn
from dcache.sites.discovery import discover, find_blocks, find_long_skips, find_skips, find_sublayers

__all__ = ["discover", "find_blocks", "find_long_skips", "find_skips", "find_sublayers"]

warn("dcache.discovery", "dcache.sites")
