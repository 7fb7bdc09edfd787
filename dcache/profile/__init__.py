"""The profile: tables of what was observed in full runs, its file, and what a schedule costs by it."""

from typing import TYPE_CHECKING

from dcache.profile.latencies import Latencies
from dcache.profile.profile import Profile
from dcache.profile.tables import FRAMES, FeatureTables, Floats
from dcache.util.renamed import renamed

__all__ = ["FRAMES", "FeatureTables", "Floats", "Latencies", "Profile"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Tables": "FeatureTables"})
