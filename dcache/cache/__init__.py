"""Cached features: codecs, histories and their sizes in bytes."""
