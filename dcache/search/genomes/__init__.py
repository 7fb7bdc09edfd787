"""Schedules as genomes: the space, variation, dominance, and the first population."""
