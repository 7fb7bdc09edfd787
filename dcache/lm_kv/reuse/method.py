"""A way of reusing caches of chunks: which of their tokens are computed again where they are put together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol

import torch

from dcache.errors import DcacheError
from dcache.lm_kv import registry
from dcache.util.options import call_with, did_you_mean

if TYPE_CHECKING:
    from dcache.lm_kv.reuse.joining import Joining

P = ParamSpec("P")
KIND = "reuse"


class Rule(Protocol):
    """Chooses tokens, and may change states that it knows better."""

    def __call__(self, text: Joining) -> torch.Tensor:
        """Bool `[T]`: the chunks' tokens that are computed again; new text is computed in any case."""


@dataclass(frozen=True)
class Reuse:
    """A way of reusing caches of chunks, for `lm_kv.join`.

    Attributes:
        name: the published method's.
        rule: chooses what is computed again.
        learn: called with a text and bool `[T]`, its computed tokens, once they are; None for nothing.
        parameters: what the method was called with, for reports.
    """

    name: str = "reuse"
    rule: Rule = field(kw_only=True)
    learn: Callable[[Joining, torch.Tensor], None] | None = field(default=None, kw_only=True)
    parameters: Mapping[str, Any] = field(default_factory=dict, compare=False, kw_only=True)


def reuse(function: Callable[P, Reuse]) -> Callable[P, Reuse]:
    """Register a function that returns a `Reuse`; it gets the function's name and the call's arguments.

    Raises:
        DcacheError: the name is taken.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> Reuse:
        # First, for its refusal of other arguments has its name.
        way = function(*args, **kwargs)
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        return replace(way, name=function.__name__, parameters=dict(call.arguments))

    registry.register(KIND, make)
    return make


def reuse_of(method: Reuse | str, **options: Any) -> Reuse:
    """The way of reuse that a name in any spelling stands for, or the one that is given.

    Raises:
        DcacheError: it is neither, or an option is unknown.
    """
    if isinstance(method, Reuse) and not options:
        return method
    known = registry.registered(KIND)
    function = registry.find(method, known) if isinstance(method, str) else None
    if function is None:
        hint = did_you_mean(method, known) if isinstance(method, str) else ""
        raise DcacheError(
            f"chunks are joined by a way of reuse, one of {', '.join(known)} or what such a function "
            f"returns, got {method!r}.{hint}"
        )
    made: Reuse = call_with(function, options)
    return made
