"""A small trained text-to-image pipeline, so that caching can be seen at work on a CPU."""
