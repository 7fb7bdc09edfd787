"""Sites: the regions of a model that can be cached, their names, and their discovery in a model."""

from dcache.sites.discovery import discover
from dcache.sites.site import LongSkip, Site, Skip, Sublayer
from dcache.sites.structure import Structure

__all__ = ["LongSkip", "Site", "Skip", "Structure", "Sublayer", "discover"]
