"""Caching for diffusion models."""
