"""How much tokens, heads, layers and pages matter, and what of attention is observed to say so."""
