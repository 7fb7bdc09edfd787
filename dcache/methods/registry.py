"""Presets by name: built-in ones, imported on first use, and registered ones."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar, get_args, overload

from dcache.errors import DcacheError, DcacheWarning
from dcache.method import Method
from dcache.methods.preset import About, about
from dcache.util.options import call_with, did_you_mean

Preset = Callable[..., Method]
P = TypeVar("P", bound=Preset)

# Each preset is a function in a module of the same name.
PresetName = Literal[
    "default",
    "adaptive",
    "bac",
    "cachequant",
    "causal",
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
    "policy_default",
    "profilingdit",
    "seacache",
    "sencache",
    "smoothcache",
    "spectrum",
    "taylorseer",
    "teacache",
    "tgate",
    "tuned",
    "yume",
]
BUILT_IN: tuple[str, ...] = get_args(PresetName)
# Entry point group under which installed packages register presets.
GROUP = "dcache.presets"
_registered: dict[str, Preset] = {}


def register(preset: P) -> P:
    """Register a preset for `enable`, `make`, `available` and the command line; returns it.

    Args:
        preset: a function decorated with `dcache.methods.preset`.

    Raises:
        DcacheError: it is not a preset, or its name is taken.
    """
    if about(preset) is None:
        raise DcacheError(f"expected a function decorated with @dcache.methods.preset(...), got {preset!r}")
    name = preset.__name__
    if name in BUILT_IN or _registered.get(name, preset) is not preset:
        raise DcacheError(f"a preset named {name!r} is registered already: choose another name")
    _registered[name] = preset
    return preset


def find(name: str) -> Preset | None:
    """The preset of this name, or None.

    Raises:
        DcacheError: an installed package's preset of this name cannot be loaded.
    """
    if name in BUILT_IN:
        built_in: Preset = vars(importlib.import_module(f"{__package__}.{name}"))[name]
        return built_in
    if name not in _registered:
        for point in entry_points(group=GROUP, name=name):
            _load(point)
    return _registered.get(name)


def names() -> list[str]:
    """The names of all presets, without importing any."""
    others = [*_registered, *(point.name for point in entry_points(group=GROUP))]
    return list(dict.fromkeys([*BUILT_IN, *others]))


def get(name: str) -> Preset:
    """The preset of this name.

    Raises:
        DcacheError: the name is unknown; the message lists all names.
    """
    preset = find(name)
    if preset is None:
        known = available()
        raise DcacheError(
            f"method {name!r} is unknown: expected one of {', '.join(known)}, a preset object, a "
            f"Schedule, or the path of a schedule file.{did_you_mean(name, known)}"
        )
    return preset


@overload
def available(kind: Literal["features"] = "features") -> dict[str, About]: ...
@overload
def available(kind: Literal["rows"]) -> dict[str, str]: ...
def available(kind: str = "features") -> dict[str, About] | dict[str, str]:
    """Name -> description of every preset.

    Presets of installed packages that cannot be loaded are left out, with a warning.

    Args:
        kind: "features" for methods that cache features of diffusion models, "rows" for row policies of
            masked-diffusion language models.

    Raises:
        DcacheError: the kind is unknown.
    """
    if kind == "rows":
        from dcache import diffusion_lm

        return diffusion_lm.available()
    if kind != "features":
        raise DcacheError(f"kind must be 'features' or 'rows', got {kind!r}")
    for point in entry_points(group=GROUP):
        if point.name not in _registered:
            try:
                _load(point)
            except DcacheError as error:
                warnings.warn(str(error), DcacheWarning, stacklevel=2)
    presets = {name: find(name) for name in (*BUILT_IN, *_registered)}
    declared = {name: about(preset) for name, preset in presets.items() if preset is not None}
    return {name: description for name, description in declared.items() if description is not None}


def make(name: str, **options: Any) -> Method:
    """Build a preset by name.

    Raises:
        DcacheError: the name or an option is unknown; the message lists the known ones.
    """
    return build(get(name), options)


def build(preset: Preset, options: Mapping[str, Any]) -> Method:
    """The method of a preset with these options.

    Raises:
        DcacheError: an option is unknown; the message lists the known ones.
    """
    described = about(preset)
    needs = "" if described is None else described.needs
    return call_with(preset, options, f". It needs {needs}." if needs else "")


def _load(point: EntryPoint) -> None:
    """Register an installed package's preset."""
    try:
        preset = register(point.load())
    except Exception as error:
        raise DcacheError(f"the preset {point.name!r} of {point.value} cannot be loaded: {error}") from error
    if preset.__name__ != point.name:
        raise DcacheError(
            f"the entry point {point.name!r} and its preset {preset.__name__!r} of {point.value} differ in "
            "name: give both the same name"
        )
