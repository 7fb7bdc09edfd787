"""`dcache.search.kv_tracks` under its old path."""

from dcache.moved import warn
from dcache.search.editing.kv_tracks import Tracks, capturing, injecting

__all__ = ["Tracks", "capturing", "injecting"]

warn("dcache.search.kv_tracks", "dcache.search.editing.kv_tracks")
