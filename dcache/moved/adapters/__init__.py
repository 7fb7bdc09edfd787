"""`dcache.adapters` under its old path."""
