"""Tiny pipelines of diffusers, one for each class, and the entries that build and call them."""
