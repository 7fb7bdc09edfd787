"""Which parts of a pipeline are denoisers: found by structure, never by class name."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import nn

from dcache.errors import DcacheError
from dcache.identity.loop import TIME_NAMES
from dcache.identity.sampler import is_sampler
from dcache.identity.timestep import takes_time
from dcache.intercept.conflicts import refuse_compiled
from dcache.intercept.pytree import argument_names


def is_pipeline(thing: Any) -> bool:
    """Whether this is a pipeline: no module itself, but with modules as components."""
    return not isinstance(thing, nn.Module) and bool(_modules(thing))


def denoisers(target: Any) -> dict[str, nn.Module]:
    """Name -> module of everything that is called between two sampler steps to predict the noise.

    Such a module takes a timestep. A ControlNet does too, but it takes the control image as well and its
    output feeds the denoiser, not the sampler, unless there is no other. A bare module is its own denoiser,
    named "". Nothing where only a run can tell: no module takes an argument of such a name, but there is a
    sampler to watch.

    Raises:
        DcacheError: the object is no module and no pipeline, or none of its modules takes a timestep and
            there is no sampler.
    """
    if isinstance(target, nn.Module):
        refuse_compiled(target)
        return {"": target}
    modules = _modules(target)
    if not modules:
        raise DcacheError(f"expected a diffusers pipeline or a torch module, got {type(target).__name__}")
    for module in modules.values():
        if _is_denoiser(getattr(module, "_orig_mod", module)):
            refuse_compiled(module)
    named = {name: module for name, module in modules.items() if _is_denoiser(module)}
    # ControlNet-XS: control and denoiser are one model.
    named = named or {name: module for name, module in modules.items() if takes_time(module)}
    if not named and not is_sampler(getattr(target, "scheduler", None)):
        raise DcacheError(
            f"no denoiser found in {type(target).__name__}: none of its modules ({', '.join(modules)}) "
            f"takes a timestep (looked for {', '.join(TIME_NAMES)}), and it has no sampler to watch. Enable "
            "caching on the denoiser module itself."
        )
    return named


def candidates(pipe: Any) -> dict[str, nn.Module]:
    """Name -> module of everything that a run may show to be a denoiser.

    Raises:
        DcacheError: one of them is compiled as a whole.
    """
    modules = {name: module for name, module in _modules(pipe).items() if not _takes_control(module)}
    for module in modules.values():
        refuse_compiled(module)
    return modules


def config_digest(module: nn.Module) -> str:
    """A short hash of a model's config, "" where it has none."""
    config = getattr(module, "config", None)
    if config is None or not hasattr(config, "items"):
        return ""
    plain = {k: v for k, v in config.items() if not k.startswith("_")}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _modules(thing: Any) -> dict[str, nn.Module]:
    components = getattr(thing, "components", None)
    if not isinstance(components, dict):
        components = getattr(thing, "__dict__", {})
    return {name: part for name, part in components.items() if isinstance(part, nn.Module)}


def _is_denoiser(module: nn.Module) -> bool:
    return takes_time(module) and not _takes_control(module)


def _takes_control(module: nn.Module) -> bool:
    return not {"controlnet_cond", "conditioning_scale"}.isdisjoint(argument_names(type(module).forward))
