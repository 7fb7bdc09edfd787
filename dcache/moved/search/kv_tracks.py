"""`dcache.search.kv_tracks` under its old path."""

from dcache.search.editing.kv_tracks import Tracks, capturing, injecting
from dcache.util.renamed import warn_moved

__all__ = ["Tracks", "capturing", "injecting"]

warn_moved("dcache.search.kv_tracks", "dcache.search.editing.kv_tracks")
