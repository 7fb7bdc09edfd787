"""`dcache.adapters.blocks` under its old path: the same tables, so that rows added here count."""

from dcache.moved import warn
from dcache.sites.blocks import ASIDE, FUSED, STREAMS, SUBLAYERS, Fused

__all__ = ["ASIDE", "FUSED", "STREAMS", "SUBLAYERS", "Fused"]

warn("dcache.adapters.blocks", "dcache.sites.blocks")
