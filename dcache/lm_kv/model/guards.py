"""Calls that a cache refuses before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dcache.errors import DcacheError


def check_call(expected: torch.nn.Module, decoder: torch.nn.Module, call: Mapping[str, Any]) -> None:
    """Refuse a forward that the cache cannot serve.

    Args:
        expected: the decoder that the cache was made for.
        decoder: the one that runs.
        call: its keyword arguments.

    Raises:
        DcacheError: another model's cache, an empty batch, attention weights that are asked for, or gradients
            that are recorded.
    """
    if decoder is not expected:
        raise DcacheError(
            f"this KVCache belongs to another model than this {type(decoder).__name__}: make one with "
            "lm_kv.KVCache(this_model, ...)"
        )
    inputs = inputs_of(call)
    if inputs is not None and 0 in inputs.shape[:2]:
        raise DcacheError(
            f"the batch is empty: expected at least one row and one token, got {tuple(inputs.shape)}. Behind "
            "a text that the cache holds, generate wants that text's ids in front of the new ones, or an "
            "attention_mask as long as both."
        )
    if call.get("output_attentions"):
        raise DcacheError(
            "output_attentions=True asks for attention weights, which a KVCache does not return: leave it "
            "out, or call without the cache"
        )
    if torch.is_grad_enabled() and any(p.requires_grad for p in decoder.parameters()):
        raise DcacheError(
            "gradients are recorded, and a KVCache evicts what they would need: call the model inside "
            "torch.no_grad() or torch.inference_mode()"
        )


def inputs_of(call: Mapping[str, Any]) -> torch.Tensor | None:
    """Embeddings `[B, S, D]` or ids `[B, S]` of a decoder's call, None where it has neither."""
    embeds = call.get("inputs_embeds")
    inputs = call.get("input_ids") if embeds is None else embeds
    return inputs if isinstance(inputs, torch.Tensor) else None
