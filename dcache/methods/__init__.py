"""Presets: one published method per file, each a function of a few lines that returns a `Method`.

A preset is imported when it is first used: `import dcache` loads none, and no planner.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dcache.methods.preset import About, preset
from dcache.methods.registry import BUILT_IN, available, find, make, register

# The presets that `__getattr__` imports, for type checkers and editors; `BUILT_IN` is the list.
if TYPE_CHECKING:
    from dcache.diffusion_lm.policies.d2cache import d2cache as d2cache
    from dcache.diffusion_lm.policies.dkv import dkv as dkv
    from dcache.diffusion_lm.policies.dllm_cache import dllm_cache as dllm_cache
    from dcache.diffusion_lm.policies.dual import dual as dual
    from dcache.diffusion_lm.policies.elastic import elastic as elastic
    from dcache.diffusion_lm.policies.freecache import freecache as freecache
    from dcache.diffusion_lm.policies.frozen import frozen as frozen
    from dcache.diffusion_lm.policies.none import none as none
    from dcache.diffusion_lm.policies.prefix import prefix as prefix
    from dcache.diffusion_lm.policies.window import window as window
    from dcache.methods.adaptive import adaptive as adaptive
    from dcache.methods.bac import bac as bac
    from dcache.methods.cachequant import cachequant as cachequant
    from dcache.methods.causal import causal as causal
    from dcache.methods.dbcache import dbcache as dbcache
    from dcache.methods.deepcache import deepcache as deepcache
    from dcache.methods.default import default as default
    from dcache.methods.delta_dit import delta_dit as delta_dit
    from dcache.methods.easycache import easycache as easycache
    from dcache.methods.ertacache import ertacache as ertacache
    from dcache.methods.fastercache import fastercache as fastercache
    from dcache.methods.fbcache import fbcache as fbcache
    from dcache.methods.fitted import fitted as fitted
    from dcache.methods.foca import foca as foca
    from dcache.methods.hicache import hicache as hicache
    from dcache.methods.interval import interval as interval
    from dcache.methods.magcache import magcache as magcache
    from dcache.methods.newton import newton as newton
    from dcache.methods.pab import pab as pab
    from dcache.methods.policy_default import policy_default as policy_default
    from dcache.methods.profilingdit import profilingdit as profilingdit
    from dcache.methods.seacache import seacache as seacache
    from dcache.methods.sencache import sencache as sencache
    from dcache.methods.smoothcache import smoothcache as smoothcache
    from dcache.methods.spectrum import spectrum as spectrum
    from dcache.methods.taylorseer import taylorseer as taylorseer
    from dcache.methods.teacache import teacache as teacache
    from dcache.methods.tgate import tgate as tgate
    from dcache.methods.tuned import tuned as tuned
    from dcache.methods.yume import yume as yume

__all__ = ["About", "available", "find", "make", "preset", "register", *BUILT_IN]  # noqa: PLE0604 - names

# Row policies of masked-diffusion language models, which `available("rows")` describes; importing them loads
# `dcache.diffusion_lm`.
ROW_POLICIES = (
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
)


class _Package(ModuleType):
    """This package's module class: binds a preset's name to its function instead of its module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in BUILT_IN and isinstance(value, ModuleType):
            value = vars(value)[name]
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    function = None if name.startswith("_") else find(name) or _row_method(name)
    if function is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return function


def _row_method(name: str) -> Any:
    """The row policy of this name, for masked-diffusion language models; None where there is none."""
    if name not in ROW_POLICIES:
        return None
    from dcache.diffusion_lm import find as find_rows

    return find_rows(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
