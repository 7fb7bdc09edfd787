"""`dcache.adapters` of version 0.1."""
