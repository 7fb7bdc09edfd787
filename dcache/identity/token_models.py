"""Models that are no denoisers: of tokens, which they take instead of a timestep, and autoencoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dcache.errors import DcacheError
from dcache.identity.denoisers import candidates, is_policy
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


def is_language_model(target: Any) -> bool:
    """Whether this is a module that takes token ids and no timestep, or wraps one; a pipeline is none."""
    module = getattr(target, "_orig_mod", target)
    if not isinstance(module, nn.Module) or is_policy(module):
        return False
    return takes_tokens(module) or wraps_tokens(module)


def refuse_token_models(pipe: Any, found: Mapping[str, nn.Module]) -> None:
    """Refuse a pipeline that generates tokens in the place of one that denoises.

    Args:
        pipe: the pipeline.
        found: its denoisers by name, as `dcache.identity.denoisers.denoisers` finds them; may be empty.

    Raises:
        DcacheError: every module of the pipeline takes token ids and no timestep.
    """
    modules = found or candidates(pipe)
    if not modules or not all(takes_tokens(module) or wraps_tokens(module) for module in modules.values()):
        return
    listed = ", ".join(f"{name}: {type(module).__name__}" for name, module in modules.items())
    raise DcacheError(
        f"{type(pipe).__name__} generates tokens: its modules ({listed}) take token ids and no timestep, "
        "so methods that cache features between noise levels do not apply. A causal language model is given "
        "itself, dcache.enable(model, 'snapkv', budget=0.25). Methods for diffusion language models are not "
        "part of this version: run it uncached."
    )


def refuse_text_pipeline(pipe: Any) -> None:
    """Refuse transformers' pipelines, which have a language model and no sampler.

    Raises:
        DcacheError: this is one; the message has the line to type.
    """
    model = getattr(pipe, "model", None)
    if not isinstance(pipe, nn.Module) and is_language_model(model) and not hasattr(pipe, "scheduler"):
        raise DcacheError(
            f"{type(pipe).__name__} generates text with a language model, {type(model).__name__}: give "
            "dcache.enable the model itself, dcache.enable(pipe.model, 'snapkv', budget=0.25)"
        )


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
