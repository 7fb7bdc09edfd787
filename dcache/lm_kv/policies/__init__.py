"""One small file for each published policy."""
