"""`@preset`: turns a function that returns a `Method` into a preset with a name and a description."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from types import NoneType, UnionType
from typing import Any, ParamSpec, Union, get_args, get_origin, get_type_hints

from dcache.errors import DcacheError
from dcache.method import Method
from dcache.util.checks import is_number, is_whole, plain
from dcache.util.text import short

P = ParamSpec("P")
_LISTS: tuple[object, ...] = (Sequence, list, tuple)
# What options of one type are called, and whether a value is of it; options of other types check themselves.
_TYPES: dict[object, tuple[str, Callable[[object], bool]]] = {
    bool: ("True or False", lambda value: isinstance(value, bool)),
    int: ("a whole number", is_whole),
    float: ("a number", is_number),
    str: ("text", lambda value: isinstance(value, str)),
    os.PathLike: ("a path", lambda value: isinstance(value, os.PathLike)),
    Mapping: ("a mapping", lambda value: isinstance(value, Mapping)),
    dict: ("a mapping", lambda value: isinstance(value, Mapping)),
    NoneType: ("None", lambda value: value is None),
}
_PLURALS: dict[object, str] = {int: "whole numbers", float: "numbers", str: "texts"}

FAMILIES = ("any", "transformer", "unet", "sublayers", "cross-attention", "guidance", "block-causal")


@dataclass(frozen=True)
class About:
    """Description of a preset.

    Attributes:
        summary: one line.
        paper: its source.
        needs: the data that it needs, such as a profile; "" for none.
        sites: the sites that it caches, as in `dcache.sites`.
        families: requirements on the denoiser: "any", "transformer" (a list of blocks), "unet", "sublayers"
            (attention and MLPs that are found or declared), "cross-attention", "guidance" (an unconditional
            branch), "block-causal" (attention that is causal over blocks of frames).
    """

    summary: str
    paper: str
    needs: str
    sites: str
    families: tuple[str, ...]

    def __str__(self) -> str:
        return self.summary


def preset(
    paper: str, sites: str, families: tuple[str, ...] = ("any",), needs: str = ""
) -> Callable[[Callable[P, Method]], Callable[P, Method]]:
    """Declare a preset: its methods get the function's name, and the call's arguments as parameters.

    The function keeps its signature and its docstring, whose first line is the summary.

    Args:
        paper: as in `About`.
        sites: as in `About`.
        families: as in `About`.
        needs: as in `About`.
    """

    def declare(function: Callable[P, Method]) -> Callable[P, Method]:
        signature = inspect.signature(function)
        defaults = {p.name: p.default for p in signature.parameters.values() if p.default is not p.empty}

        @wraps(function)
        def make(*args: P.args, **kwargs: P.kwargs) -> Method:
            try:
                call = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            # Numbers of NumPy and torch become Python's, so that schedules and reports stay JSON.
            call.arguments = {name: plain(value) for name, value in call.arguments.items()}
            try:
                # A preset's own checks say more: they know the smallest value.
                method = function(*call.args, **call.kwargs)
            except (AttributeError, TypeError, ValueError):
                _check_types(function, call.arguments)
                raise
            _check_types(function, call.arguments)
            call.apply_defaults()
            return replace(method, name=function.__name__, parameters=call.arguments, defaults=defaults)

        summary = (function.__doc__ or "").partition("\n")[0]
        make.__dict__["about"] = About(summary, paper, needs, sites, families)
        return make

    return declare


def _check_types(function: Callable[..., Method], options: Mapping[str, object]) -> None:
    """Check the types of a preset's options, as its annotations have them.

    Raises:
        DcacheError: a value is of another type.
    """
    try:
        annotated = get_type_hints(function)
    except NameError:
        # A name that is imported for type checkers alone.
        return
    for option, value in options.items():
        kinds = _alternatives(annotated.get(option))
        if all(_name(kind) for kind in kinds) and not any(_fits(kind, value) for kind in kinds):
            names = list(dict.fromkeys(map(_name, kinds)))
            expected = " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
            raise DcacheError(f"{option} of {function.__name__} must be {expected}, got {short(value)}")


def _alternatives(annotation: object) -> tuple[object, ...]:
    """The types of a union, or the only type."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _name(kind: Any) -> str:
    """What values of a type are called; "" for a type that is not checked."""
    origin = get_origin(kind) or kind
    if origin in _LISTS:
        entry = next(iter(get_args(kind)), None)
        return f"a list of {_PLURALS[entry]}" if entry in _PLURALS else "a list"
    if _is_ours(origin):
        return f"a {origin.__name__}"
    return _TYPES[origin][0] if isinstance(origin, Hashable) and origin in _TYPES else ""


def _is_ours(kind: Any) -> bool:
    """True for a class of dcache, such as Profile, which is not imported here since it loads NumPy."""
    return isinstance(kind, type) and kind.__module__.startswith("dcache.")


def _fits(kind: Any, value: object) -> bool:
    """Whether a value is of a type that `_name` knows, a list's entries included."""
    origin = get_origin(kind) or kind
    if origin not in _LISTS:
        return isinstance(value, origin) if _is_ours(origin) else _TYPES[origin][1](value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return False
    entry = next(iter(get_args(kind)), None)
    return entry not in _PLURALS or all(_TYPES[entry][1](item) for item in value)


def about(function: Callable[..., Method]) -> About | None:
    """The description of a preset; None for a function that is not a preset."""
    declared = getattr(function, "about", None)
    return declared if isinstance(declared, About) else None
