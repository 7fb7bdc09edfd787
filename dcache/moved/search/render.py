"""`dcache.search.render` under its old path."""

from dcache.moved import warn
from dcache.search.rendering.render import PICTURES, Renderer

__all__ = ["PICTURES", "Renderer"]

warn("dcache.search.render", "dcache.search.rendering.render")
