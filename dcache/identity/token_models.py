"""Models that are no denoisers: of tokens, which they take instead of a timestep, and autoencoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dcache.errors import DcacheError
from dcache.identity.denoisers import candidates
from dcache.identity.timestep import takes_time
from dcache.intercept.pytree import argument_names

TOKEN_NAMES = ("input_ids", "decoder_input_ids")
# A part with so much of a wrapper's parameters is what it wraps.
_SHARE = 0.5


def takes_tokens(module: nn.Module) -> bool:
    """Whether a module takes token ids and no timestep, as language models and text encoders do."""
    names = argument_names(type(module).forward)
    return any(name in TOKEN_NAMES for name in names) and not takes_time(module)


def wraps_tokens(module: nn.Module) -> bool:
    """Whether a module wraps one that takes tokens (as peft does), and nothing in it takes a timestep."""
    parts = [part for part in module.modules() if part is not module]
    if takes_time(module) or any(takes_time(part) for part in parts):
        return False
    size = _size(module)
    return any(takes_tokens(part) and _size(part) >= _SHARE * size > 0 for part in parts)


def refuse_autoencoder(target: Any) -> None:
    """Refuse a module that encodes and decodes pictures in place of a denoiser.

    Raises:
        DcacheError: it has `encode` and `decode`, and takes no timestep.
    """
    codes = all(callable(getattr(target, name, None)) for name in ("encode", "decode"))
    if isinstance(target, nn.Module) and codes and not takes_time(target):
        raise DcacheError(
            f"{type(target).__name__} encodes and decodes and takes no timestep: it is no denoiser. Enable "
            "caching on the pipeline, dcache.enable(pipe), or on its denoiser, such as "
            "dcache.enable(pipe.transformer)."
        )


def refuse_token_models(target: Any, found: Mapping[str, nn.Module]) -> None:
    """Refuse a language model, or a pipeline that generates tokens, in place of a denoiser.

    Args:
        target: the module or pipeline.
        found: its denoisers by name, as `dcache.identity.denoisers.denoisers` finds them; may be empty.

    Raises:
        DcacheError: the module takes token ids and no timestep, or every module of the pipeline does.
    """
    modules = found or candidates(target)
    if not modules or not all(takes_tokens(module) or wraps_tokens(module) for module in modules.values()):
        return
    if isinstance(target, nn.Module):
        raise DcacheError(
            f"{type(target).__name__} takes token ids and no timestep: it is a language model. dcache.enable "
            "caches features of a denoiser from one noise level to the next: give it the pipeline, or the "
            "module that takes the timestep. Methods for language models are not part of this version."
        )
    listed = ", ".join(f"{name}: {type(module).__name__}" for name, module in modules.items())
    raise DcacheError(
        f"{type(target).__name__} generates tokens: its modules ({listed}) take token ids and no timestep, "
        "so methods that cache features between noise levels do not apply. Methods for diffusion language "
        "models are not part of this version: run it uncached."
    )


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
