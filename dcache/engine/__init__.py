"""The engine: sessions, regions and lowerings."""
