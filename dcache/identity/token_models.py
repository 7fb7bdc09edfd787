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


def refuse_token_models(target: Any, found: Mapping[str, nn.Module]) -> None:
    """Refuse a language model, or a pipeline that generates tokens, in place of a denoiser.

    Args:
        target: the module or pipeline.
        found: its denoisers by name, as `dcache.identity.denoisers.denoisers` finds them; may be empty.

    Raises:
        DcacheError: the module takes token ids and no timestep, or every module of the pipeline does.
    """
    modules = found or candidates(target)
    if not modules or not all(takes_tokens(module) for module in modules.values()):
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
