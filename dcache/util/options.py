"""Functions that are called with options by name: presets and policies."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from dcache.errors import DcacheError

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the known name that is closest to an unknown one, "" where none is close.

    >>> did_you_mean("snapkw", ["snapkv", "h2o"])
    " Did you mean 'snapkv'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def options_of(function: Callable[..., Any]) -> list[str]:
    """The names of a function's options."""
    return list(inspect.signature(function).parameters)


def call_with(function: Callable[..., T], options: Mapping[str, Any], hint: str = "") -> T:
    """Call a function with options by name.

    Args:
        function: the function.
        options: name -> value.
        hint: a text to end the error with.

    Raises:
        DcacheError: an option is unknown; the message lists the known ones.
    """
    known = options_of(function)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise DcacheError(
            f"{function.__name__} has no option {', '.join(map(repr, unknown))}: "
            f"it takes {', '.join(known)}{hint}"
        )
    return function(**options)
