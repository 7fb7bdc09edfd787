"""`dcache.search.rope_roles` under its old path."""

from dcache.search.editing.rope_roles import rope_errors
from dcache.util.renamed import warn_moved

__all__ = ["rope_errors"]

warn_moved("dcache.search.rope_roles", "dcache.search.editing.rope_roles")
