"""Caches that several rows, contexts or workers read: what no policy of one text can hold."""
