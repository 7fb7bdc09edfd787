"""Presets: one published method per file, each a function of a few lines that returns a `Method`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from dcache.errors import DcacheError
from dcache.method import Method
from dcache.methods.about import About, told
from dcache.methods.bac import bac
from dcache.methods.cachequant import cachequant
from dcache.methods.dbcache import dbcache
from dcache.methods.deepcache import deepcache
from dcache.methods.default import default
from dcache.methods.delta_dit import delta_dit
from dcache.methods.easycache import easycache
from dcache.methods.ertacache import ertacache
from dcache.methods.fastercache import fastercache
from dcache.methods.fbcache import fbcache
from dcache.methods.fitted import fitted
from dcache.methods.foca import foca
from dcache.methods.hicache import hicache
from dcache.methods.interval import interval
from dcache.methods.magcache import magcache
from dcache.methods.newton import newton
from dcache.methods.pab import pab
from dcache.methods.profilingdit import profilingdit
from dcache.methods.seacache import seacache
from dcache.methods.smoothcache import smoothcache
from dcache.methods.taylorseer import taylorseer
from dcache.methods.teacache import teacache
from dcache.methods.tgate import tgate

__all__ = [
    "About",
    "available",
    "bac",
    "cachequant",
    "dbcache",
    "deepcache",
    "default",
    "delta_dit",
    "easycache",
    "ertacache",
    "fastercache",
    "fbcache",
    "fitted",
    "foca",
    "hicache",
    "interval",
    "magcache",
    "make",
    "newton",
    "pab",
    "profilingdit",
    "seacache",
    "smoothcache",
    "taylorseer",
    "teacache",
    "tgate",
]

_PRESETS: dict[str, Callable[..., Method]] = {
    preset.__name__: preset
    for preset in (
        default,
        bac,
        cachequant,
        dbcache,
        deepcache,
        delta_dit,
        easycache,
        ertacache,
        fastercache,
        fbcache,
        fitted,
        foca,
        hicache,
        interval,
        magcache,
        newton,
        pab,
        profilingdit,
        seacache,
        smoothcache,
        taylorseer,
        teacache,
        tgate,
    )
}


def available() -> dict[str, About]:
    """Name of every preset -> what it is: a summary, its paper, what it needs, its sites and families."""
    return {name: told(name) for name in _PRESETS}


def make(name: str, **options: Any) -> Method:
    """Build a preset by name.

    Raises:
        DcacheError: the name or an option is unknown; the message lists what there is.
    """
    preset = _PRESETS.get(name)
    if preset is None:
        close = difflib.get_close_matches(name, _PRESETS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise DcacheError(
            f"method {name!r} is unknown: expected one of {', '.join(_PRESETS)}, a preset object, a "
            f"Schedule, or the path of a schedule file.{hint}"
        )
    known = list(inspect.signature(preset).parameters)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise DcacheError(
            f"{name} has no option {', '.join(map(repr, unknown))}: it takes {', '.join(known)}"
        )
    return preset(**options)
