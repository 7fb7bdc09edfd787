"""Key-value caches for autoregressive transformers: eviction, quantisation and sharing under a byte budget.

Nothing is here yet. What will be: caches that stand in for the `transformers` cache classes, with one
small file for each published method. This part stands on `dcache.kernels` and `dcache.errors` alone.
"""
