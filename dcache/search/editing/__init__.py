"""Editing of pictures: keys and values of one call are put into another (FreeFlux)."""
