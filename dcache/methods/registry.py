"""Presets by name: dcache's own, imported when they are first used, and others that are registered."""

from __future__ import annotations

import difflib
import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar, get_args

from dcache.errors import DcacheError, DcacheWarning
from dcache.method import Method
from dcache.methods.preset import About, about

Preset = Callable[..., Method]
P = TypeVar("P", bound=Preset)

# Each is the function of that name in the module of that name.
PresetName = Literal[
    "default",
    "bac",
    "cachequant",
    "dbcache",
    "deepcache",
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
    "newton",
    "pab",
    "profilingdit",
    "seacache",
    "sencache",
    "smoothcache",
    "spectrum",
    "taylorseer",
    "teacache",
    "tgate",
]
OWN: tuple[str, ...] = get_args(PresetName)
# Installed packages name their presets under this group of entry points.
GROUP = "dcache.presets"
_registered: dict[str, Preset] = {}


def register(preset: P) -> P:
    """Make a preset known by its name to `enable`, `make`, `available` and the command line; returns it.

    Args:
        preset: a function under `dcache.methods.preset`.

    Raises:
        DcacheError: it is no preset, or another one has its name.
    """
    if about(preset) is None:
        raise DcacheError(f"expected a function decorated with @dcache.methods.preset(...), got {preset!r}")
    name = preset.__name__
    if name in OWN or _registered.get(name, preset) is not preset:
        raise DcacheError(f"a preset named {name!r} is registered already: choose another name")
    _registered[name] = preset
    return preset


def find(name: str) -> Preset | None:
    """The preset of this name, None where there is none.

    Raises:
        DcacheError: an installed package's preset of this name cannot be loaded.
    """
    if name in OWN:
        own: Preset = vars(importlib.import_module(f"{__package__}.{name}"))[name]
        return own
    if name not in _registered:
        for point in entry_points(group=GROUP, name=name):
            _load(point)
    return _registered.get(name)


def names() -> list[str]:
    """The names of all presets; none is imported for it."""
    others = [*_registered, *(point.name for point in entry_points(group=GROUP))]
    return list(dict.fromkeys([*OWN, *others]))


def get(name: str) -> Preset:
    """The preset of this name.

    Raises:
        DcacheError: there is none; the message lists what there is.
    """
    preset = find(name)
    if preset is None:
        known = available()
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise DcacheError(
            f"method {name!r} is unknown: expected one of {', '.join(known)}, a preset object, a "
            f"Schedule, or the path of a schedule file.{hint}"
        )
    return preset


def available() -> dict[str, About]:
    """Name of every preset -> what it is: a summary, its paper, what it needs, its sites and families.

    Presets of installed packages that cannot be loaded are left out, with a warning.
    """
    for point in entry_points(group=GROUP):
        if point.name not in _registered:
            try:
                _load(point)
            except DcacheError as error:
                warnings.warn(str(error), DcacheWarning, stacklevel=2)
    presets = {name: find(name) for name in (*OWN, *_registered)}
    declared = {name: about(preset) for name, preset in presets.items() if preset is not None}
    return {name: what for name, what in declared.items() if what is not None}


def make(name: str, **options: Any) -> Method:
    """Build a preset by name.

    Raises:
        DcacheError: the name or an option is unknown; the message lists what there is.
    """
    return build(get(name), options)


def options_of(preset: Preset) -> list[str]:
    """The names of a preset's options."""
    return list(inspect.signature(preset).parameters)


def build(preset: Preset, options: Mapping[str, Any]) -> Method:
    """The method of a preset with these options.

    Raises:
        DcacheError: an option is unknown; the message lists what there is.
    """
    known = options_of(preset)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise DcacheError(
            f"{preset.__name__} has no option {', '.join(map(repr, unknown))}: it takes {', '.join(known)}"
        )
    return preset(**options)


def _load(point: EntryPoint) -> None:
    """Register an installed package's preset."""
    try:
        preset = register(point.load())
    except Exception as error:
        raise DcacheError(f"the preset {point.name!r} of {point.value} cannot be loaded: {error}") from error
    if preset.__name__ != point.name:
        raise DcacheError(
            f"the entry point {point.name!r} has another name than its preset {preset.__name__!r} of "
            f"{point.value}: give both the same"
        )
