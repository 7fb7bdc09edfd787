"""Presets: one published method per file, each a function of a few lines that returns a `Method`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from dcache.errors import DcacheError
from dcache.method import Method
from dcache.methods.deepcache import deepcache
from dcache.methods.default import default
from dcache.methods.fbcache import fbcache
from dcache.methods.interval import interval
from dcache.methods.newton import newton
from dcache.methods.taylorseer import taylorseer

__all__ = ["available", "deepcache", "default", "fbcache", "interval", "make", "newton", "taylorseer"]

_PRESETS: dict[str, Callable[..., Method]] = {
    "default": default,
    "deepcache": deepcache,
    "fbcache": fbcache,
    "interval": interval,
    "newton": newton,
    "taylorseer": taylorseer,
}


def available() -> dict[str, str]:
    """Name of every preset -> the first line of what it is."""
    return {name: (inspect.getdoc(preset) or "").partition("\n")[0] for name, preset in _PRESETS.items()}


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
