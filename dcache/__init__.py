"""dcache makes diffusion and video models faster by remembering what barely changes between denoising steps.

>>> import dcache
>>> dcache.methods.interval(interval=3).describe()
"interval(interval=3, warmup=1, last=False, sites='auto')"
"""

from dcache import methods
from dcache.api import disable, enable, enabled, stats, step, trace
from dcache.errors import DcacheError, DcacheWarning
from dcache.estimate import memory_estimate
from dcache.method import Method
from dcache.schedule import Schedule
from dcache.stats import Stats

__version__ = "0.1.0"

__all__ = [
    "DcacheError",
    "DcacheWarning",
    "Method",
    "Schedule",
    "Stats",
    "disable",
    "enable",
    "enabled",
    "memory_estimate",
    "methods",
    "stats",
    "step",
    "trace",
]
