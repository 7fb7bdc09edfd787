"""The published policies by name, and those that others register."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec, TypeAlias

from dcache.errors import DcacheError
from dcache.lm_kv.options import PolicyName
from dcache.lm_kv.policy import Policy
from dcache.util.options import call_with, did_you_mean, options_of

P = ParamSpec("P")
Preset: TypeAlias = Callable[..., Policy]
# Options of every policy, because they are fields of `Policy` and arguments of `KVCache`.
SHARED = ("budget", "codec", "allocation", "floor", "dense_layers", "every")
_presets: dict[str, Preset] = {}


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
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        policy = function(*args, **kwargs)
        # A preset may say what an argument stands for, such as the content of a file.
        return replace(policy, name=name, parameters={**call.arguments, **policy.parameters})

    if name in _presets:
        raise DcacheError(f"a policy named {name!r} is registered already: choose another name")
    _presets[name] = make
    return make


def available() -> dict[str, str]:
    """Name of every policy -> its summary.

    >>> from dcache import lm_kv
    >>> lm_kv.available()["random"]
    'Keep random tokens: the baseline that a policy must beat.'
    """
    return {name: (function.__doc__ or "").partition("\n")[0] for name, function in _presets.items()}


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
    function = _presets.get(name) or {_plain(known): f for known, f in _presets.items()}.get(_plain(name))
    if function is None:
        known = ", ".join(_presets)
        raise DcacheError(
            f"policy {name!r} is unknown: expected one of {known}.{did_you_mean(name, _presets)}"
        )
    takes = options_of(function)
    shared = {key: value for key, value in options.items() if key in SHARED and key not in takes}
    policy = call_with(function, {key: value for key, value in options.items() if key not in shared})
    return replace(policy, **shared)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
