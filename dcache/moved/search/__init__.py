"""Documented modules of `dcache.search` under their old paths; the package adds this folder."""
