"""Caches of chunks put together into one text: a small file for each published way of reuse."""
