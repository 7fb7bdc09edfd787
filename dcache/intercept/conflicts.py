"""Refusals: what dcache must not be put on top of."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from dcache.errors import DcacheError
from dcache.intercept.module_call import compiled_call
from dcache.util.modules import modules_of

_CACHE_HOOKS = ("cache", "broadcast", "taylor")


def refuse_other_cache(module: nn.Module) -> None:
    """Raise if another cache is already enabled on the module (diffusers' own, cache-dit)."""
    other = None
    if getattr(module, "_cache_config", None) is not None:
        other = f"diffusers' own ({type(module._cache_config).__name__}); call .disable_cache() on it first"
    elif getattr(module, "_is_cached", False):
        other = "cache-dit; call cache_dit.disable_cache(pipe) first"
    else:
        for child in modules_of(module):
            registry = child.__dict__.get("_diffusers_hook")
            for name in getattr(registry, "hooks", {}):
                if any(word in name for word in _CACHE_HOOKS):
                    other = f"diffusers' hook {name!r}; remove it first"
    if other is not None:
        raise DcacheError(
            f"another cache is already enabled on {type(module).__name__}: {other}. Two caches on one "
            "denoiser would each predict from what the other predicted."
        )


_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def active_dropout(module: nn.Module) -> list[str]:
    """A warning where a dropout layer is in training mode with p above 0, else nothing."""
    active = [
        layer
        for layer in modules_of(module)
        if layer.training and isinstance(layer, _DROPOUTS) and layer.p > 0
    ]
    if not active:
        return []
    first = next(name for name, layer in module.named_modules() if layer is active[0])
    return [
        f"{type(module).__name__} is in training mode with active dropout ({first}; {len(active)} in all): "
        "computed calls differ at random, and predictions repeat it. Call .eval() on it."
    ]


def being_compiled() -> bool:
    """Whether `torch.compile` is at work around this call: traces it, or runs what it could not trace."""
    if torch.compiler.is_dynamo_compiling():
        return True
    return "torch._dynamo" in sys.modules and callable(torch._C._dynamo.eval_frame.get_eval_frame_callback())


class NotInlined:
    """A forward pre-hook: a module without any is inlined, past us, by `torch.compile` of what calls it."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Raise where the module is being traced."""
        if torch.compiler.is_dynamo_compiling():
            raise compiled_whole(module)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of the module gets a hook that hands the arguments on and needs no dcache to read."""
        return getattr, ({}, "get")


def refuse_compiled(module: Any) -> None:
    """Raise if the whole model was compiled: its blocks are no longer called one by one."""
    if hasattr(module, "_orig_mod") or compiled_call(module) is not None:
        raise compiled_whole(getattr(module, "_orig_mod", module))


def compiled_whole(module: nn.Module) -> DcacheError:
    """The error for a model that is compiled as a whole."""
    return DcacheError(
        f"{type(module).__name__} is compiled as a whole, so dcache cannot step in between its blocks. "
        "Leave the model as it is and call dcache.enable(pipe, ..., compile=True): it compiles the blocks "
        "one by one and keeps them compiled while it caches."
    )
