"""How a model's layers make keys and values of what they are given, for codecs that make them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.latents import Latent, latent_of
from dcache.lm_kv.model import adapter
from dcache.lm_kv.model.noted import noted
from dcache.lm_kv.model.remembered import Remembered
from dcache.lm_kv.model.rotary import Rotary, attention_modules

# Tokens that are tried.
TOKENS = 8
Latents = Mapping[int, Mapping[str, Latent]]
_known: Remembered[Latents] = Remembered()


@torch.no_grad()
def latents_of(decoder: torch.nn.Module, layers: Sequence[int], rotary: Rotary) -> Latents:
    """The latents of each layer's keys and values, found once for a model as its weights are.

    Args:
        decoder: of the model.
        layers: indices of its layers with full attention.
        rotary: its rotations.

    Raises:
        DcacheError: a layer has a KV head for each query head, or its keys before rotation and values are no
            linear functions of what it is given.
    """
    return _known.of(decoder, lambda: _tried(decoder, layers, rotary))


def _tried(decoder: torch.nn.Module, layers: Sequence[int], rotary: Rotary) -> Latents:
    modules = attention_modules(decoder, list(layers))
    hooks = adapter.InputHooks(modules)
    ids = torch.arange(1, TOKENS + 1, device=next(decoder.parameters()).device)[None]
    cache = noted(decoder, ids, reads_inputs=True)
    # They live as long as this.
    del hooks
    latents = {}
    for layer, module in modules.items():
        keys, values = cache.layers[layer].noted
        if getattr(module, "num_key_value_groups", 2) == 1:
            raise DcacheError(
                f"{type(decoder).__name__} has a KV head for each query head, and xquant stores latents that "
                "take less where query heads share them: use lm_kv.kivi() or lm_kv.rotatekv()"
            )
        given = cache.layers[layer].given
        positions = torch.arange(TOKENS, device=ids.device)[None]
        turned = rotary.turn(layer, keys.float(), positions, "back")
        latents[layer] = {
            "keys": _latent(module, "k_proj", given, turned, layer),
            "values": _latent(module, "v_proj", given, values, layer),
        }
    return latents


def _latent(
    module: torch.nn.Module, name: str, given: torch.Tensor | None, states: torch.Tensor, layer: int
) -> Latent:
    """The latent of a linear layer, where it makes these states `[1, h, T, d]` of what was given."""
    linear = getattr(module, name, None)
    if type(linear) is torch.nn.Linear and given is not None:
        made = linear(given).float()
        tolerance = 1e-3 if linear.weight.dtype.itemsize >= 4 else 5e-2
        if torch.allclose(made, states.transpose(1, 2).flatten(2).float(), atol=tolerance, rtol=tolerance):
            return latent_of(linear.weight, linear.bias, states.shape[1])
    raise DcacheError(
        f"layer {layer} does not make its keys and values by plain linear layers k_proj and v_proj (it norms "
        "them, say, or is quantised), so xquant cannot make them again: use lm_kv.kivi() or lm_kv.rotatekv()"
    )
