"""One layer of a cache, and how tokens of all layers are evicted, read, counted and filed."""
