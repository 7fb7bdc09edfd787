"""Helpers that are independent of caching: files, byte sizes, checks, registries, texts."""
