"""How kept tokens are stored: as they come, in few bits, by few directions."""
