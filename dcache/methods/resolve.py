"""Resolves the `method` argument of `enable`: preset names in any spelling, presets, schedules, files."""

from __future__ import annotations

import difflib
import inspect
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from dcache.errors import DcacheError
from dcache.identity.denoisers import is_policy
from dcache.method import Method
from dcache.methods.preset import about
from dcache.methods.registry import BUILT_IN, build, get, make, names
from dcache.schedule import Schedule
from dcache.util.options import options_of

# Names in papers and other libraries that are more than another spelling of the preset's name.
ALIASES = {
    "fora": "interval",
    "firstblockcache": "fbcache",
    "paracache": "fbcache",
    "dualblockcache": "dbcache",
    "cachedit": "dbcache",
    "pyramidattentionbroadcast": "pab",
    "taylorcache": "taylorseer",
    "temporalgating": "tgate",
    "blockwiseadaptivecaching": "bac",
}


def resolve(
    method: Any, options: Mapping[str, Any], taken: Iterable[str] = (), target: Any = None
) -> Method | Schedule:
    """The method or schedule that `method` stands for.

    Args:
        method: a preset's name ("interval", "FORA", "newton:interval=4"), a preset function, a `Method`, a
            `Schedule`, the path of a schedule file, "hub:owner/name", or None for the target's default.
        options: options of the preset.
        taken: names of the caller's other options, for messages.
        target: what the method is for, which has a say where `method` is None; None is any model.

    Raises:
        DcacheError: the method or an option is unknown; the message has the line to type.
    """
    if method is None:
        return _default(options, taken, default_for(target))
    if isinstance(method, str):
        return _named(method, options)
    if isinstance(method, os.PathLike):
        _refuse_options(f"the schedule {os.fspath(method)!r}", options, taken)
        return Schedule.load(method)
    if isinstance(method, Method | Schedule):
        _refuse_options(f"a {type(method).__name__}", options, taken)
        return method
    if callable(method) and about(method) is not None:
        # A preset function instead of its result: `enable(pipe, dcache.methods.newton, interval=4)`.
        return build(method, options)
    refuse_policy(method)
    if inspect.isfunction(method):
        raise DcacheError(
            f"{method.__name__} is a function and no preset: call it, dcache.enable(pipe, "
            f"{method.__name__}()), or decorate it with @dcache.methods.preset"
        )
    raise DcacheError(
        "method must be a preset's name, a preset object, a Schedule or a path, got "
        f"{type(method).__name__}: write dcache.enable(pipe, 'interval', interval=3) or "
        "dcache.enable(pipe, 'file.schedule.json')"
    )


def default_for(target: Any) -> str:
    """The name of the preset that a target gets where no method is named.

    >>> default_for(None)
    'default'
    """
    return "policy_default" if is_policy(target) else "default"


def refuse_policy(method: Any) -> None:
    """Raise if this is a policy for language models, its name or its function."""
    from dcache.lm_kv import Policy, available

    if is_row_method(method):
        name = getattr(method, "name", getattr(method, "__name__", ""))
        raise DcacheError(
            f"{name} computes rows of a masked-diffusion language model, and a method for a denoiser is "
            "expected here, as in dcache.enable(pipe, 'interval', interval=3)"
        )

    name = method.name if isinstance(method, Policy) else getattr(method, "__name__", method)
    if isinstance(method, Policy) or (isinstance(name, str) and name in available("policy")):
        raise DcacheError(
            f"{name} is a policy for the KV cache of a causal language model, and a method for a diffusion "
            "model is expected here, as in dcache.enable(pipe, 'interval', interval=3). Give dcache.enable "
            f"the language model itself: dcache.enable(model, {name!r}, budget=0.25)."
        )


def is_row_method(method: Any) -> bool:
    """Whether this is a row method or a function that makes one; names are not looked up."""
    package = sys.modules.get("dcache.diffusion_lm.registry")
    if package is None:
        return False
    return isinstance(method, package.RowMethod) or (
        callable(method) and package.find(getattr(method, "__name__", "")) is method
    )


def preset_called(text: str) -> str | None:
    """The name of the preset for a name in any spelling, or None.

    >>> preset_called("FORA"), preset_called("First-Block Cache"), preset_called("TaylorSeer")
    ('interval', 'fbcache', 'taylorseer')
    """
    if text in BUILT_IN:
        # The names of other packages' presets are read from the disk.
        return text
    known = names()
    if text in known:
        return text
    plain = _plain(text)
    spelled = {_plain(name): name for name in known}
    return spelled.get(plain) or ALIASES.get(plain)


def read_options(text: str, spec: str) -> dict[str, Any]:
    """The options in a method's text specification.

    >>> read_options("interval=4,sites=attn+mlp,last=true", "newton:...")
    {'interval': 4, 'sites': ['attn', 'mlp'], 'last': True}

    Args:
        text: `option=value` separated by commas. A value is JSON or plain text; `+` separates a list's items.
        spec: the whole specification, for messages.

    Raises:
        DcacheError: a part is not `option=value`.
    """
    return dict(_option(spec, word) for word in text.split(",") if word.strip())


def _default(options: Mapping[str, Any], taken: Iterable[str], name: str) -> Method:
    if _takes(name, options):
        return make(name, **options)
    if set(options) <= {"speedup", "quality"}:
        return make("tuned", **options)
    takers = [name for name in names() if _takes(name, options)]
    given = ", ".join(f"{key}={value!r}" for key, value in options.items())
    if takers:
        # Suggest the preset with the option's name first: `enable(pipe, interval=3)` means interval.
        first = next((name for name in takers if name in options), takers[0])
        raise DcacheError(
            f"an option needs its method's name: write dcache.enable(pipe, {first!r}, {given}); the "
            f"methods with such options are {', '.join(takers)}"
        )
    raise DcacheError(
        f"unknown option(s) {', '.join(options)} for {name}: {_engine_options(taken)}a "
        "preset's own options go with its name, as in dcache.enable(pipe, 'interval', interval=3)"
    )


def _named(text: str, options: Mapping[str, Any]) -> Method | Schedule:
    name = preset_called(text)
    if name is not None:
        return make(name, **options)
    if text.startswith("hub:"):
        _refuse_options(f"the schedule {text!r}", options, ())
        return Schedule.from_hub(text)
    if text.endswith(".json") or os.sep in text:
        _refuse_options(f"the schedule {text!r}", options, ())
        return Schedule.load(text)
    head, colon, rest = text.partition(":")
    name = preset_called(head) if colon else None
    if name is not None:
        return make(name, **{**read_options(rest, text), **options})
    refuse_policy(head)
    known = names()
    close = difflib.get_close_matches(_plain(head), [*known, *ALIASES], n=1)
    hint = f" Did you mean {ALIASES.get(close[0], close[0])!r}?" if close else ""
    raise DcacheError(
        f"method {text!r} is unknown: expected one of {', '.join(known)}, a preset object, a Schedule, or "
        f"the path of a schedule file.{hint}"
    )


def _refuse_options(name: str, options: Mapping[str, Any], taken: Iterable[str]) -> None:
    if options:
        raise DcacheError(
            f"unknown option(s) {', '.join(options)} for {name}: {_engine_options(taken)}a preset's own "
            "options go with its name, as in dcache.enable(pipe, 'interval', interval=3)"
        )


def _engine_options(taken: Iterable[str]) -> str:
    names = ", ".join(taken)
    return f"the engine takes {names}; " if names else ""


def _takes(name: str, options: Mapping[str, Any]) -> bool:
    return set(options) <= set(options_of(get(name)))


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _option(spec: str, word: str) -> tuple[str, Any]:
    key, equals, value = (part.strip() for part in word.partition("="))
    if not equals or not key or not value:
        raise DcacheError(f"cannot read {word!r} in {spec!r}: expected option=value, as in newton:interval=4")
    if "+" in value:
        return key, value.split("+")
    if value.lower() in ("none", "true", "false"):
        return key, {"none": None, "true": True, "false": False}[value.lower()]
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
