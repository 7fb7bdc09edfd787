"""`dcache.search.render` under its old path."""

from dcache.search.rendering.render import PICTURES, Renderer
from dcache.util.renamed import warn_moved

__all__ = ["PICTURES", "Renderer"]

warn_moved("dcache.search.render", "dcache.search.rendering.render")
