"""`dcache.search.rope_roles` under its old path."""

from dcache.moved import warn
from dcache.search.editing.rope_roles import rope_errors

__all__ = ["rope_errors"]

warn("dcache.search.rope_roles", "dcache.search.editing.rope_roles")
