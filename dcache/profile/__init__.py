"""The profile: tables of what was observed in full runs, its file, and what a schedule costs by it."""

from dcache.profile.profile import FRAMES, Floats, Latencies, Profile, Tables

__all__ = ["FRAMES", "Floats", "Latencies", "Profile", "Tables"]
