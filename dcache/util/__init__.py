"""Helpers that know nothing of caching: files, bytes, checks."""
