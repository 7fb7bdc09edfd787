"""The row policies by name, and those that others register."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeAlias, get_args

from dcache.diffusion_lm.method import RowMethod, RowPolicy
from dcache.errors import DcacheError
from dcache.util.options import call_with, did_you_mean, options_of

P = ParamSpec("P")
Preset: TypeAlias = Callable[..., RowMethod]
# Options of every preset, because they are the engine's.
SHARED = ("delay", "mask_id", "shift")
RowMethodName = Literal[
    "none",
    "dkv",
    "elastic",
    "window",
    "frozen",
    "freecache",
    "prefix",
    "dual",
    "dllm_cache",
    "d2cache",
]
# Each is a function in a module of the same name, which is imported on first use.
BUILT_IN: tuple[str, ...] = get_args(RowMethodName)
_presets: dict[str, Preset] = {}


def preset(function: Callable[P, RowPolicy]) -> Callable[..., RowMethod]:
    """Register a function that returns a policy; what it becomes returns a `RowMethod`.

    The result also takes `delay=1`, `mask_id=None` and `shift=None`. The first line of the docstring is the
    summary in `available()`.

    Raises:
        DcacheError: another one has its name.
    """
    name = function.__name__
    signature = inspect.signature(function)

    @wraps(function)
    def make(
        *args: Any, delay: int = 1, mask_id: int | None = None, shift: bool | None = None, **kwargs: Any
    ) -> RowMethod:
        policy = call_with(function, kwargs) if not args else function(*args, **kwargs)
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        return RowMethod(
            name,
            policy=policy,
            delay=delay,
            mask_id=mask_id,
            shift=shift,
            parameters=dict(call.arguments),
        )

    shared = [
        inspect.Parameter("delay", inspect.Parameter.KEYWORD_ONLY, default=1, annotation="int"),
        inspect.Parameter("mask_id", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="int | None"),
        inspect.Parameter("shift", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="bool | None"),
    ]
    make.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *shared], return_annotation="RowMethod"
    )
    # Built-in policies are imported on first use, and `find` reads names in any spelling.
    built_in = function.__module__ == f"dcache.diffusion_lm.policies.{name}"
    taken = {_plain(known) for known in (*_presets, *(() if built_in else BUILT_IN))}
    if _plain(name) in taken:
        raise DcacheError(f"a row policy named {name!r} is registered already: choose another name")
    _presets[name] = make
    return make


def find(name: str) -> Preset | None:
    """The preset of this name, in any spelling; None where there is none."""
    plain = _plain(name) if isinstance(name, str) else ""
    for built_in in BUILT_IN:
        if plain == _plain(built_in):
            importlib.import_module(f"dcache.diffusion_lm.policies.{built_in}")
    return {_plain(known): function for known, function in _presets.items()}.get(plain)


def available() -> dict[str, str]:
    """Name of every row policy -> its summary.

    >>> from dcache import diffusion_lm
    >>> diffusion_lm.available()["dual"]
    'Fast-dLLM, dual cache: rows of the current block (Wu et al. 2025, arXiv 2505.22618).'
    """
    for name in BUILT_IN:
        find(name)
    return {name: (function.__doc__ or "").partition("\n")[0] for name, function in _presets.items()}


def make(name: str, **options: Any) -> RowMethod:
    """Build a row method by name, in any spelling.

    Raises:
        DcacheError: the name or an option is unknown; the message lists what there is.

    >>> from dcache import diffusion_lm
    >>> diffusion_lm.make("dKV", refresh=4).describe()
    "dkv(variant='decode', refresh=4, window=4)"
    """
    function = find(name)
    if function is None:
        known = list(available())
        raise DcacheError(
            f"row policy {name!r} is unknown: expected one of {', '.join(known)}.{did_you_mean(name, known)}"
        )
    shared = {key: value for key, value in options.items() if key in SHARED}
    rest = {key: value for key, value in options.items() if key not in SHARED}
    unknown = [option for option in rest if option not in options_of(function)]
    if unknown:
        call_with(function, rest)
    return replace(function(**rest), **shared)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
