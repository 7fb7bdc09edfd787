"""Sites: which regions of a model can be remembered, their names, and how they are found."""

from dcache.sites.discovery import discover
from dcache.sites.site import LongSkip, Site, Skip, Sublayer
from dcache.sites.structure import Structure

__all__ = ["LongSkip", "Site", "Skip", "Structure", "Sublayer", "discover"]
