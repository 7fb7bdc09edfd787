"""The profile: statistics of full runs as tables, its file, and the cost of a schedule by its latencies."""

from typing import TYPE_CHECKING

from dcache.profile.latencies import Latencies
from dcache.profile.profile import Profile
from dcache.profile.tables import FRAMES, FeatureTables, Floats
from dcache.util.renamed import renamed

__all__ = ["FRAMES", "FeatureTables", "Floats", "Latencies", "Profile"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Tables": "FeatureTables"})
