"""How many tokens are kept: by row, layer and head, and when the others go."""
