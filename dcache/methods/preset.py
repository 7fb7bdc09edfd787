"""The decorator that makes a function which returns a `Method` a preset: named, described, registered."""

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
    """What a preset is and where it makes sense.

    Attributes:
        summary: one line.
        paper: where it comes from.
        needs: what must be brought along, "" if nothing.
        sites: what it remembers, as in `dcache.sites`.
        families: what a denoiser must have: "any", "transformer" (a list of blocks), "unet",
            "sublayers" (block classes whose sublayers are declared), "cross-attention", "guidance" (a branch
            without the prompt).
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

    The function stays a plain function with its signature and docstring, whose first line is the summary.

    Args:
        paper: where it comes from.
        sites: what it remembers.
        families: what a denoiser must have; see `About`.
        needs: what must be brought along, "" if nothing.
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
    """What was declared of a preset; None of a function that is none."""
    declared = getattr(function, "about", None)
    return declared if isinstance(declared, About) else None
