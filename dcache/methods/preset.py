"""`@preset`: turns a function that returns a `Method` into a preset with a name and a description."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from types import NoneType, UnionType
from typing import ParamSpec, Union, get_args, get_origin, get_type_hints

from dcache.errors import DcacheError
from dcache.method import Method
from dcache.util.checks import is_number, is_whole

P = ParamSpec("P")
# What options of one type are called, and whether a value is of it; options of other types check themselves.
_TYPES: dict[object, tuple[str, Callable[[object], bool]]] = {
    bool: ("True or False", lambda value: isinstance(value, bool)),
    int: ("a whole number", is_whole),
    float: ("a number", is_number),
    str: ("text", lambda value: isinstance(value, str)),
}

FAMILIES = ("any", "transformer", "unet", "sublayers", "cross-attention", "guidance")


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
            branch).
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
            try:
                # A preset's own checks say more: they know the smallest value.
                method = function(*args, **kwargs)
            except TypeError:
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
        allowed, optional = _alternatives(annotated.get(option))
        if len(allowed) != 1 or allowed[0] not in _TYPES or (optional and value is None):
            continue
        name, fits = _TYPES[allowed[0]]
        if not fits(value):
            name += " or None" if optional else ""
            raise DcacheError(f"{option} of {function.__name__} must be {name}, got {value!r}")


def _alternatives(annotation: object) -> tuple[list[object], bool]:
    """The types of a union but None, or the only type; whether None is one of them."""
    union = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [kind for kind in union if kind is not NoneType], NoneType in union


def about(function: Callable[..., Method]) -> About | None:
    """The description of a preset; None for a function that is not a preset."""
    declared = getattr(function, "about", None)
    return declared if isinstance(declared, About) else None
