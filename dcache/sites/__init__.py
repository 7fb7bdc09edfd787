"""Sites: which regions of a model can be remembered, their names, and how they are found."""

from dcache.sites.discovery import discover
from dcache.sites.site import Join, Site, Skip, Sublayer
from dcache.sites.structure import Structure

__all__ = ["Join", "Site", "Skip", "Structure", "Sublayer", "discover"]
