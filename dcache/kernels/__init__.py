"""The arithmetic of caching: float32 torch references, each to get a Triton kernel beside it.

Here so far: `weighted_sum`, what every prediction computes, as its reference. What will be: its fused kernel,
change indicators that read their tensors once, and the gathers and scatters of token-level caching.
"""
