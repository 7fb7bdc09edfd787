"""A small language model that recalls associations, to measure what a compressed KV cache has lost."""
