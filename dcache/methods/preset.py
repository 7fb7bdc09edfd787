"""`@preset`: turns a function that returns a `Method` into a preset with a name and a description."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import ParamSpec

from dcache.method import Method

P = ParamSpec("P")

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
            method = function(*args, **kwargs)
            call = signature.bind(*args, **kwargs)
            call.apply_defaults()
            return replace(method, name=function.__name__, parameters=call.arguments, defaults=defaults)

        summary = (function.__doc__ or "").partition("\n")[0]
        make.__dict__["about"] = About(summary, paper, needs, sites, families)
        return make

    return declare


def about(function: Callable[..., Method]) -> About | None:
    """The description of a preset; None for a function that is not a preset."""
    declared = getattr(function, "about", None)
    return declared if isinstance(declared, About) else None
