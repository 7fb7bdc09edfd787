"""`dcache.adapters.blocks` under its old path: the same tables, so that rows added here count."""

from dcache.sites.blocks import ASIDE, FUSED, STREAMS, SUBLAYERS, Fused
from dcache.util.renamed import warn_moved

__all__ = ["ASIDE", "FUSED", "STREAMS", "SUBLAYERS", "Fused"]

warn_moved("dcache.adapters.blocks", "dcache.sites.blocks")
