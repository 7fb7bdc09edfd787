"""What codecs of attention's inputs must give: keys and values of rounded inputs, by transformers' code."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from dcache.util.bytes import bytes_of


@torch.no_grad()
def inputs_of_attention(model: Any, ids: torch.Tensor, cache: Any) -> list[torch.Tensor]:
    """Read a text `[B, T]` into a cache; what each layer's attention was given, `[B, T, D]`."""
    given: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: given.append(kwargs["hidden_states"].clone()), with_kwargs=True
        )
        for layer in model.model.layers
    ]
    model(ids, past_key_values=cache)
    for hook in hooks:
        hook.remove()
    return given


@torch.no_grad()
def check_a_step_reads(model: Any, cache: Any, ids: torch.Tensor, inputs: Sequence[torch.Tensor]) -> None:
    """One more token gives the logits that it gives behind keys and values of these inputs `[T, D]`.

    Args:
        model: a Llama in float64.
        cache: has read these tokens, and encoded all of them.
        ids: int64 `[1, T]`.
        inputs: of each layer's attention, as the cache should have them.
    """
    plain, count = DynamicCache(), len(inputs[0])
    cos, sin = model.model.rotary_emb(inputs[0], torch.arange(count)[None])
    for index, (layer, given) in enumerate(zip(model.model.layers, inputs, strict=True)):
        attention = layer.self_attn
        keys, values = (
            linear(given).view(1, count, -1, attention.head_dim).transpose(1, 2)
            for linear in (attention.k_proj, attention.v_proj)
        )
        plain.update(apply_rotary_pos_emb(keys, keys, cos, sin)[0], values, index)
    token = torch.tensor([[7]])
    wanted = model(token, past_key_values=plain).logits
    got = model(token, past_key_values=cache).logits
    torch.testing.assert_close(got, wanted, atol=1e-9, rtol=0)
    # Rounding shows.
    whole = DynamicCache()
    model(ids, past_key_values=whole)
    assert (got - model(token, past_key_values=whole).logits).abs().max() > 1e-2


def packed_bytes(cache: Any) -> int:
    """Bytes of all that is encoded, lengths and places with it."""
    segments = [segment for layer in cache.layers for segment in layer.store.segments]
    return bytes_of(tensor for segment in segments for tensor in segment.storages())
