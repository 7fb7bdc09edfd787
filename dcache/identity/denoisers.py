"""Which parts of a pipeline or a policy are denoisers: found by structure, never by class name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from torch import nn

from dcache.errors import DcacheError
from dcache.identity.loop import TIME_NAMES
from dcache.identity.sampler import is_sampler
from dcache.identity.timestep import takes_time
from dcache.intercept.conflicts import refuse_compiled
from dcache.intercept.pytree import argument_names, parameters_of

# A part with a smaller share of the parameters is an embedding or a block, not the denoiser.
SHARE = 0.5
# Methods of policies that make one chunk of actions, or take the next action of one.
CHUNK_METHODS = (
    "select_action",
    "predict_action_chunk",
    "predict_action",
    "conditional_sample",
    "generate_actions",
    "sample_actions",
    "get_action",
)
# So many methods that may denoise are named in a message.
_MOST_NAMED = 3


def is_pipeline(thing: Any) -> bool:
    """Whether this is a pipeline: no module itself, but with modules as components."""
    return not isinstance(thing, nn.Module) and bool(_modules(thing))


def denoisers(target: Any) -> dict[str, nn.Module]:
    """Name -> module of everything that is called between two sampler steps to predict the noise.

    Such a module takes a timestep. A ControlNet does too, but it takes the control image as well and its
    output feeds the denoiser, not the sampler, unless there is no other. A bare module is its own denoiser,
    or has it as a part (a policy); that is named "". Nothing where only a run can tell: no module takes an
    argument of such a name, but there is a sampler to watch.

    Raises:
        DcacheError: the object is no module and no pipeline, or none of its modules takes a timestep and
            there is no sampler.
    """
    if isinstance(target, nn.Module):
        refuse_compiled(target)
        part = denoiser_in(target)
        refuse_compiled(part)
        return {"": part}
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


def denoiser_named(target: Any, component: str | None = None) -> tuple[str, nn.Module]:
    """Name and module of one denoiser.

    Args:
        target: a pipeline, or a denoiser.
        component: its name; None is the only one.

    Raises:
        DcacheError: there are several and none was named, or there is none of that name.
    """
    available = denoisers(target)
    name = next(iter(available)) if component is None and len(available) == 1 else component
    if name is None or name not in available:
        have = ", ".join(map(repr, available)) or "none that dcache recognises by its modules' arguments"
        raise DcacheError(
            f"component must be one denoiser of {type(target).__name__}, which has {have}; got {name!r}"
        )
    return name, available[name]


def is_policy(thing: Any) -> bool:
    """Whether an object makes actions by a method, and is no module whose own call takes a timestep."""
    acts = any(callable(getattr(thing, name, None)) for name in CHUNK_METHODS)
    return acts and not (isinstance(thing, nn.Module) and takes_time(thing))


def chunk_method_names(policy: Any) -> list[str]:
    """Names of a policy's methods that make one chunk of actions; not `select_action`, which gives one."""
    return [
        name for name in CHUNK_METHODS if name != "select_action" and callable(getattr(policy, name, None))
    ]


def inner_denoiser(module: nn.Module, share: float = SHARE) -> tuple[str, nn.Module] | None:
    """The part of a module that looks like its denoiser: path and module, None where there is none.

    Where the module's own call takes a timestep it may be the denoiser, and its parts those of one: blocks in
    lists are none then. Should such a part be called by others, this is noticed as well.

    Args:
        module: a module; one whose own call takes any arguments (`*args`) has none.
        share: the least share of the parameters that the part has.

    >>> from torch import nn
    >>> from dcache.identity.denoisers import inner_denoiser
    >>> inner_denoiser(nn.Linear(2, 2)) is None
    True
    """
    if hands_on(module):
        return None
    size, itself = size_of(module), takes_time(module)
    largest, least = None, share * size
    for path, part in module.named_modules():
        in_list = any(name.isdigit() for name in path.split("."))
        # Beside itself an embedding of the timestep takes nothing else.
        denoises = takes_time(part) and len(argument_names(type(part).forward)) > 2
        if path and denoises and not (itself and in_list) and size_of(part) >= least > 0:
            if share >= SHARE:
                return path, part
            largest, least = (path, part), size_of(part) + 1
    return largest


def hands_on(module: nn.Module) -> bool:
    """Whether a module's call takes any arguments, as that of a wrapper that hands everything on."""
    forward = type(module).forward
    return forward is not nn.Module.forward and any(
        p.kind is p.VAR_POSITIONAL for p in parameters_of(forward)
    )


def denoiser_in(module: nn.Module) -> nn.Module:
    """The denoiser of a module: itself, or the part of it that takes the timestep where itself does not.

    Raises:
        DcacheError: it is a policy and has no such part, it is denoised by a method, or it cannot be called.
    """
    if takes_time(module):
        _refuse_method("", module)
        return module
    policy, name = is_policy(module), type(module).__name__
    # Beside a large encoder a policy's denoiser may be small.
    part = inner_denoiser(module, 1e-6 if policy else SHARE)
    if part is not None:
        _refuse_method(*part)
        return part[1]
    if policy:
        raise DcacheError(
            f"no denoiser found in {name}: none of its modules takes a timestep. {_way_out(module)}"
        )
    if type(module).forward is nn.Module.forward:
        raise DcacheError(
            f"{name} cannot be called, and none of its modules with most of the parameters takes a timestep "
            f"(looked for {', '.join(TIME_NAMES)}). Enable caching on the module that the loop calls."
        )
    return module


def _refuse_method(path: str, module: nn.Module) -> None:
    """Refuse a module whose call is its loss, and which denoises by a method (pi0, SmolVLA)."""
    method = next((name for name in _timed_methods(module) if "denois" in name), None)
    if method is not None:
        raise DcacheError(
            f"{type(module).__name__} is denoised by its method {method}, not by a module's call: name it, "
            f"as in dcache.enable(policy, 'interval', sites='model', call={f'{path}.{method}'.strip('.')!r})"
        )


def _way_out(module: nn.Module) -> str:
    methods = denoising_methods(module)[:_MOST_NAMED]
    if not methods:
        return (
            "Enable caching on the module that every denoising step calls, and call dcache.step in the loop."
        )
    return (
        f"Methods that do are {', '.join(methods)}: name the one that every denoising step calls, as in "
        f"dcache.enable(policy, 'interval', sites='model', call={methods[0]!r})."
    )


def denoising_methods(module: nn.Module) -> list[str]:
    """Paths of methods in a module that take a timestep and more, those that say that they denoise first."""
    paths = [
        f"{path}.{name}".strip(".") for path, part in module.named_modules() for name in _timed_methods(part)
    ]
    return sorted(paths, key=lambda path: "denois" not in path)


def _timed_methods(module: nn.Module) -> Iterator[str]:
    """Names of a module's methods, beside its call, that take a timestep and more."""
    for kind in takewhile(lambda kind: kind is not nn.Module, type(module).__mro__):
        for name, method in vars(kind).items():
            public = name != "forward" and not name.startswith("_") and callable(method)
            arguments = argument_names(method) if public else []
            if len(arguments) > 2 and not set(TIME_NAMES).isdisjoint(arguments):
                yield name


def size_of(module: nn.Module) -> int:
    """Number of a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


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
