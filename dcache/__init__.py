"""dcache makes diffusion and video models faster by remembering what barely changes between denoising steps.

>>> import dcache
>>> dcache.methods.interval(interval=3).describe()
'interval(interval=3)'
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache import methods
from dcache.api import disable, enable, enabled, reset, stats, step, trace
from dcache.errors import DcacheError, DcacheWarning
from dcache.method import Method
from dcache.schedule import Schedule
from dcache.stats import Stats

if TYPE_CHECKING:
    from dcache.estimate import memory_estimate

# Documented modules that moved are found under their old paths until 0.3, and warn.
__path__.append(str(Path(__file__).parent / "moved"))

__version__ = "0.2.0"

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
    "reset",
    "stats",
    "step",
    "trace",
]

# Rooms of their own, and functions of others, imported when they are first used.
_LAZY = ("diffusion_lm", "lm_kv", "policy", "time_memo")
_LAZY_FUNCTIONS = {
    "capturing": "search.editing.kv_tracks",
    "injecting": "search.editing.kv_tracks",
    "memo": "time_memo",
    "memory_estimate": "estimate",
    "memo_report": "time_memo",
    "refine": "search.refine",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"dcache.{name}")
    if name in _LAZY_FUNCTIONS:
        return getattr(importlib.import_module(f"dcache.{_LAZY_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module 'dcache' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_LAZY_FUNCTIONS})
