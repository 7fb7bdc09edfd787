"""Which parts of a pipeline are denoisers: found by structure, never by class name."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import nn

from dcache.containers import argument_names
from dcache.errors import DcacheError
from dcache.guards import refuse_compiled
from dcache.loop import TIME_NAMES


def is_pipeline(thing: Any) -> bool:
    """Whether this is a pipeline: no module itself, but with modules as components."""
    return not isinstance(thing, nn.Module) and bool(_modules(thing))


def denoisers(target: Any) -> dict[str, nn.Module]:
    """Name -> module of everything that is called between two sampler steps to predict the noise.

    Such a module takes a timestep. A ControlNet does too, but it takes the control image as well and its
    output feeds the denoiser, not the sampler. A bare module is its own denoiser, named "".

    Raises:
        DcacheError: the object is no module and no pipeline, or none of its modules takes a timestep.
    """
    if isinstance(target, nn.Module):
        refuse_compiled(target)
        return {"": target}
    modules = _modules(target)
    if not modules:
        raise DcacheError(f"expected a diffusers pipeline or a torch module, got {type(target).__name__}")
    for module in modules.values():
        if _takes_time(getattr(module, "_orig_mod", module)):
            refuse_compiled(module)
    found = {name: module for name, module in modules.items() if _takes_time(module)}
    if not found:
        raise DcacheError(
            f"no denoiser found in {type(target).__name__}: none of its modules ({', '.join(modules)}) "
            f"takes a timestep (looked for {', '.join(TIME_NAMES)}). Enable caching on the denoiser module "
            "itself."
        )
    return found


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


def _takes_time(module: nn.Module) -> bool:
    names = argument_names(type(module).forward)
    return any(n in TIME_NAMES for n in names) and "controlnet_cond" not in names
