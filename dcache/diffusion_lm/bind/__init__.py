"""How a model's attention is reached: its attention interface, its cache argument, or its sdpa calls."""
