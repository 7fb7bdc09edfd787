"""Models of tokens are no denoisers: they take token ids and no timestep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dcache.errors import DcacheError
from dcache.identity.denoisers import candidates
from dcache.identity.timestep import takes_time
from dcache.intercept.pytree import argument_names

TOKEN_NAMES = ("input_ids", "decoder_input_ids")


def takes_tokens(module: nn.Module) -> bool:
    """Whether a module takes token ids and no timestep, as language models and text encoders do."""
    names = argument_names(type(module).forward)
    return any(name in TOKEN_NAMES for name in names) and not takes_time(module)


def is_language_model(target: Any) -> bool:
    """Whether this is a module that takes token ids and no timestep; a pipeline is none."""
    return isinstance(target, nn.Module) and takes_tokens(getattr(target, "_orig_mod", target))


def refuse_token_models(pipe: Any, found: Mapping[str, nn.Module]) -> None:
    """Refuse a pipeline that generates tokens in the place of one that denoises.

    Args:
        pipe: the pipeline.
        found: its denoisers by name, as `dcache.identity.denoisers.denoisers` finds them; may be empty.

    Raises:
        DcacheError: every module of the pipeline takes token ids and no timestep.
    """
    modules = found or candidates(pipe)
    if not modules or not all(takes_tokens(module) for module in modules.values()):
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
