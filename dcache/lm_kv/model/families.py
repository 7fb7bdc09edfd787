"""Which models are supported: the decoder in a model and its cache layers, or why there are none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicCache, DynamicLayer

from dcache.errors import DcacheError


def decoder_of(model: Any) -> torch.nn.Module:
    """The innermost model of transformers that holds the attention layers: every wrapper calls it by keyword.

    Raises:
        DcacheError: there is none, there are several, it is compiled, it is an encoder, or its attention
            cannot be replaced.
    """
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    models = [m for m in modules if isinstance(m, PreTrainedModel) and any(map(_has_index, m.modules()))]
    inner = [m for m in models if not any(other is not m and other in models for other in m.modules())]
    if len(inner) != 1:
        raise DcacheError(
            "lm_kv needs a causal language model of transformers with one decoder, got "
            f"{type(model).__name__}, which has {len(inner)}"
        )
    (decoder,) = inner
    _check_compiled(modules)
    _check_causal(decoder)
    # Not the class's own flag: it is unset for families that do use the interface (Qwen3-Next).
    files = {sys.modules[type(m).__module__] for m in decoder.modules() if _has_index(m)}
    if not any(hasattr(file, "ALL_ATTENTION_FUNCTIONS") for file in files):
        raise DcacheError(
            f"{type(decoder).__name__} does not call its attention through transformers' attention "
            "interface, so its cache cannot be replaced"
        )
    return decoder


def layers_for(
    decoder: torch.nn.Module, make: Callable[[int], CacheLayerMixin]
) -> tuple[list[Any], list[int]]:
    """A cache layer for each layer of a decoder, and the indices of those that are `make`'s.

    Sliding, chunked, linear and convolutional layers keep the library's.

    Raises:
        DcacheError: no layer has full attention, or keys change after the cache (MLA).
    """
    config: Any = decoder.config
    name = type(decoder).__name__
    if getattr(config, "kv_lora_rank", None):
        raise DcacheError(
            f"{name} has latent attention (MLA): it stores latents, not keys and values, so there are no "
            "tokens per head to evict"
        )
    layers: list[Any] = list(DynamicCache(config=config).layers)
    if getattr(config, "num_kv_shared_layers", 0):
        raise DcacheError(f"{name} shares keys between layers, which lm_kv does not support")
    full = [i for i, layer in enumerate(layers) if type(layer) is DynamicLayer]
    if not full:
        kinds = sorted({type(layer).__name__ for layer in layers})
        raise DcacheError(
            f"{name} has no layer with full attention, nothing to compress: it has {', '.join(kinds)}"
        )
    for index in full:
        layers[index] = make(index)
    return layers, full


def _has_index(module: torch.nn.Module) -> bool:
    return getattr(module, "layer_idx", None) is not None


def _check_causal(decoder: torch.nn.Module) -> None:
    """Refuse encoders, decoders that read one, and models whose tokens see later ones.

    A bidirectional model of a causal class says so in its config alone, which transformers' masks read.
    """
    config: Any = decoder.config
    indexed = [module for module in decoder.modules() if _has_index(module)]
    flags = [module.is_causal for module in indexed if hasattr(module, "is_causal")]
    encodes = bool(flags) and not any(flags)
    kind = None
    if getattr(config, "is_causal", None) is False:
        kind = "bidirectional (config.is_causal is False): earlier tokens change with later ones"
    elif encodes:
        kind = "an encoder: its attention is not causal"
    elif getattr(config, "is_encoder_decoder", False):
        kind = "part of an encoder-decoder model"
    if kind is not None:
        raise DcacheError(
            f"{type(decoder).__name__} is {kind}, and lm_kv is for causal language models that have a "
            "decoder alone"
        )


def _check_compiled(modules: list[torch.nn.Module]) -> None:
    """Refuse models of which `torch.compile` has taken a part that holds attention."""
    for module in modules:
        forward = vars(module).get("forward")
        compiled = (
            hasattr(module, "_orig_mod")
            or module._compiled_call_impl is not None
            or hasattr(forward, "_torchdynamo_orig_callable")
        )
        if compiled and any(map(_has_index, module.modules())):
            name = type(getattr(module, "_orig_mod", module)).__name__
            raise DcacheError(
                f"{name} is compiled, and caches of lm_kv change their shapes at every eviction: give the "
                "model as it was before torch.compile"
            )
