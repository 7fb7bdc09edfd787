"""The published methods by name, of each kind, and those that others register."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

from dcache.errors import DcacheError
from dcache.lm_kv.options import PolicyName
from dcache.lm_kv.policy import Policy
from dcache.util.options import call_with, did_you_mean, options_of

P = ParamSpec("P")
T = TypeVar("T")
Preset: TypeAlias = Callable[..., Policy]
# Options of every policy, because they are fields of `Policy` and arguments of `KVCache`.
SHARED = ("budget", "codec", "allocation", "floor", "dense_layers", "every")
_presets: dict[str, Preset] = {}
# What is no policy: name -> its kind and the function that makes it.
_others: dict[str, tuple[str, Callable[..., Any]]] = {}


def preset(function: Callable[P, Policy]) -> Callable[P, Policy]:
    """Register a function that returns a policy; its policies get its name and the call's arguments.

    The first line of its docstring is its summary in `available()`.

    Raises:
        DcacheError: another one has its name.
    """
    signature = inspect.signature(function)
    name = function.__name__

    @wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> Policy:
        # First, for its refusal of other arguments has its name.
        policy = function(*args, **kwargs)
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        # A preset may say what an argument stands for, such as the content of a file.
        return replace(policy, name=name, parameters={**call.arguments, **policy.parameters})

    _check_free(name)
    _presets[name] = make
    return make


def register(kind: str, function: Callable[..., Any]) -> None:
    """Register a function that makes something other than a policy, under its name.

    Args:
        kind: what it makes, in one word: "reuse".
        function: the first line of its docstring is its summary in `available()`.

    Raises:
        DcacheError: its name is taken.
    """
    _check_free(function.__name__)
    _others[function.__name__] = (kind, function)


def registered(kind: str) -> dict[str, Callable[..., Any]]:
    """Name -> function of everything of one kind that is no policy."""
    return {name: function for name, (other, function) in _others.items() if other == kind}


def available(kind: str | None = None) -> dict[str, str]:
    """Name of every method -> its summary.

    Args:
        kind: "policy" for those that `KVCache` takes, "reuse" for those that `join` takes, "sharing" for
            texts that several rows read, "trained" for policies that load weights; None for all.

    Raises:
        DcacheError: there is no such kind.

    >>> from dcache import lm_kv
    >>> lm_kv.available()["random"]
    'Keep random tokens: the baseline that a policy must beat.'
    """
    kinds = ["policy", *sorted({other for other, _ in _others.values()})]
    if kind not in (None, *kinds):
        raise DcacheError(f"kind must be one of {', '.join(kinds)}, or None for all; got {kind!r}")
    functions = dict(_presets) if kind in (None, "policy") else {}
    functions |= {name: function for name, (other, function) in _others.items() if kind in (None, other)}
    return {name: (function.__doc__ or "").partition("\n")[0] for name, function in functions.items()}


def make(name: PolicyName | str, **options: Any) -> Policy:
    """Build a policy by name, in any spelling.

    Args:
        name: such as "snapkv" or "SnapKV".
        **options: the preset's, and those that `KVCache` takes for all.

    Raises:
        DcacheError: the name or an option is unknown; the message lists what there is.

    >>> from dcache import lm_kv
    >>> lm_kv.make("SnapKV", budget=0.25, dense_layers=(0,)).dense_layers
    (0,)
    """
    function = find(name, _presets)
    if function is None:
        known = ", ".join(_presets)
        _refuse_other(name)
        raise DcacheError(
            f"policy {name!r} is unknown: expected one of {known}.{did_you_mean(name, _presets)}"
        )
    takes = options_of(function)
    shared = {key: value for key, value in options.items() if key in SHARED and key not in takes}
    policy = call_with(function, {key: value for key, value in options.items() if key not in shared})
    return replace(policy, **shared)


def find(name: str, functions: Mapping[str, Callable[P, T]]) -> Callable[P, T] | None:
    """The function of this name in any spelling; None where there is none."""
    return functions.get(name) or {_plain(known): f for known, f in functions.items()}.get(_plain(name))


def _refuse_other(name: str) -> None:
    """Refuse the name of a method that is no policy, and say what to do with it.

    Raises:
        DcacheError: it is such a name.
    """
    for known, (kind, _) in _others.items():
        if _plain(known) != _plain(name):
            continue
        way = {
            "reuse": f"it joins chunks, so give it to lm_kv.join(model, chunks, {known!r})",
            "trained": f"it reads weights, so give what lm_kv.{known}(...) returns in place of the name",
        }.get(kind, f"call lm_kv.{known}(...), which docs/lm_kv/policies/{known}.md describes")
        raise DcacheError(f"{known} is of the kind {kind!r} and no policy by name: {way}")


def _check_free(name: str) -> None:
    if name in _presets or name in _others:
        kind = _others[name][0] if name in _others else "policy"
        raise DcacheError(f"a {kind} named {name!r} is registered already: choose another name")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
