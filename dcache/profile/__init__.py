"""The profile: tables of what was observed in full runs, its file, and what a schedule costs by it."""

from dcache.profile.latencies import Latencies
from dcache.profile.profile import Profile
from dcache.profile.tables import FRAMES, Floats, Tables

__all__ = ["FRAMES", "Floats", "Latencies", "Profile", "Tables"]
