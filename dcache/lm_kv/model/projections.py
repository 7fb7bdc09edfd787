"""How a model's layers make keys and values of what they are given, for codecs that make them again."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.latents import Latent, Linear, latent_of
from dcache.lm_kv.model import adapter
from dcache.lm_kv.model.directions import NotedCache
from dcache.lm_kv.model.rotary import Rotary, attention_modules

# Tokens that are tried.
TOKENS = 8
# Keys' and values' weights and biases.
Weights = Mapping[str, tuple[torch.Tensor, torch.Tensor | None]]
Linears = Mapping[int, Mapping[str, Linear]]
Latents = Mapping[int, Mapping[str, Latent | Linear]]


@dataclass
class _Known:
    """What was found out about a decoder whose weights lie and are as `weights` says."""

    weights: tuple[tuple[int, int], ...]
    tried: Linears | None = None
    latents: Latents | None = None
    linears: Linears | None = None


_decoders: weakref.WeakKeyDictionary[torch.nn.Module, _Known] = weakref.WeakKeyDictionary()


def _known(decoder: torch.nn.Module) -> _Known:
    """What is known of a decoder; nothing where its weights were moved, cast or written to since."""
    weights = tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in decoder.parameters())
    if decoder not in _decoders or _decoders[decoder].weights != weights:
        _decoders[decoder] = _Known(weights)
    return _decoders[decoder]


@torch.no_grad()
def latents_of(decoder: torch.nn.Module, layers: Sequence[int], rotary: Rotary, name: str) -> Latents:
    """The latents of each layer's keys and values, found once for a model.

    Args:
        decoder: of the model.
        layers: indices of its layers with full attention.
        rotary: its rotations.
        name: of the method, for messages.

    Returns:
        Layers with a KV head for each query head have their projections instead: their input is narrower
        than keys and values.

    Raises:
        DcacheError: a layer's keys before rotation and values are no linear functions of what it is given.
    """
    known = _known(decoder)
    if known.latents is None:
        known.latents = {
            layer: {part: _narrow(linear) for part, linear in linears.items()}
            for layer, linears in _projections(decoder, layers, rotary, name).items()
        }
    return known.latents


@torch.no_grad()
def linears_of(decoder: torch.nn.Module, layers: Sequence[int], rotary: Rotary, name: str) -> Linears:
    """The projections of each layer, with the directions of its input on which they depend; as `latents_of`.

    Raises:
        DcacheError: as there.
    """
    known = _known(decoder)
    if known.linears is None:
        known.linears = {
            layer: _directed(linears)
            for layer, linears in _projections(decoder, layers, rotary, name).items()
        }
    return known.linears


def _narrow(linear: Linear) -> Latent | Linear:
    """The latent of a projection whose heads are shared by query heads; else itself."""
    return latent_of(linear.weight, linear.bias, linear.heads) if linear.shared else linear


def _directed(linears: Mapping[str, Linear]) -> Mapping[str, Linear]:
    """Keys' and values' projections with the directions of both, where they are fewer than X has numbers."""
    both = torch.cat([linear.weight for linear in linears.values()])
    if both.shape[0] >= both.shape[1]:
        return linears
    wide = both.to(torch.promote_types(both.dtype, torch.float32))
    directions = torch.linalg.svd(wide.T, full_matrices=False).U.contiguous()
    return {part: replace(linear, directions=directions) for part, linear in linears.items()}


def _projections(decoder: torch.nn.Module, layers: Sequence[int], rotary: Rotary, name: str) -> Linears:
    """Each layer's projections, tried once on a few tokens."""
    known = _known(decoder)
    if known.tried is not None:
        return known.tried
    modules = attention_modules(decoder, list(layers))
    inputs, attachment, cache = adapter.Inputs(modules), adapter.attach(decoder), NotedCache(decoder)
    ids = torch.arange(1, TOKENS + 1, device=next(decoder.parameters()).device)[None]
    decoder(input_ids=ids, past_key_values=cache, use_cache=True)
    # The hooks live as long as the attachment.
    del attachment
    positions = torch.arange(TOKENS, device=ids.device)[None]
    found = {}
    for layer, module in modules.items():
        keys, values = cache.layers[layer].noted
        turned = rotary.turn(layer, keys.float(), positions, "back")
        states = {"keys": turned, "values": values.float()}
        linears = _fitting(module, inputs.take(layer), states, cache.layers[layer].query_heads)
        if linears is None:
            raise DcacheError(
                f"layer {layer} does not make its keys and values by plain linear layers (it norms them, "
                f"say, or is quantised), so {name} cannot make them again: use lm_kv.kivi() or "
                "lm_kv.rotatekv()"
            )
        found[layer] = linears
    known.tried = found
    return found


def _fitting(
    module: torch.nn.Module, given: torch.Tensor | None, states: Mapping[str, torch.Tensor], queries: int
) -> Mapping[str, Linear] | None:
    """The projections that make these states `[1, h, T, d]` of what was given; None where none do.

    Args:
        module: of attention.
        given: what it was given.
        states: its keys before rotation and its values, float32.
        queries: heads of its queries.
    """
    heads = states["keys"].shape[1]
    for weights in _candidates(module, states, queries):
        linears = {part: Linear(heads, *weights[part], shared=queries > heads) for part in states}
        if given is not None and all(_makes(linears[part], given, states[part]) for part in states):
            return linears
    return None


def _candidates(
    module: torch.nn.Module, states: Mapping[str, torch.Tensor], queries: int
) -> Iterator[Weights]:
    """What may make keys and values: two linear layers, or a part of one, by the usual layouts."""
    heads, sizes = states["keys"].shape[1], [states[part].shape[3] for part in ("keys", "values")]
    linears = {name: child for name, child in module.named_children() if type(child) is torch.nn.Linear}
    if "k_proj" in linears and "v_proj" in linears:
        pair = linears["k_proj"], linears["v_proj"]
        yield {p: _weights(x.weight, x.bias) for p, x in zip(("keys", "values"), pair, strict=True)}
    rows = queries * sizes[0], heads * sizes[0], heads * sizes[1]
    for linear in (child for child in linears.values() if child.out_features == sum(rows)):
        bias: torch.Tensor | None = linear.bias
        # All queries, all keys, all values (Phi-3).
        pieces = zip(*(_split(x, rows) for x in (linear.weight, bias)), strict=True)
        yield dict(zip(("keys", "values"), [_weights(*piece) for piece in pieces][1:], strict=True))
        if queries == heads and sizes[0] == sizes[1]:
            # Head by head its query, key and value (GPT-NeoX).
            by_head = [None if x is None else x.unflatten(0, (heads, 3, -1)) for x in (linear.weight, bias)]
            yield {
                part: _weights(*(None if x is None else x[:, place].flatten(0, 1) for x in by_head))
                for place, part in ((1, "keys"), (2, "values"))
            }


def _split(tensor: torch.Tensor | None, rows: Sequence[int]) -> Sequence[torch.Tensor | None]:
    return [None] * len(rows) if tensor is None else tensor.split(list(rows))


def _weights(
    weight: torch.Tensor | None, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if weight is None:
        raise TypeError("a linear layer has a weight")
    return weight.detach(), None if bias is None else bias.detach()


def _makes(linear: Linear, given: torch.Tensor, states: torch.Tensor) -> bool:
    """Whether a projection makes these states of what was given."""
    tolerance = 1e-3 if linear.weight.dtype.itemsize >= 4 else 5e-2
    made, wanted = linear.states(given).float(), states.transpose(1, 2).flatten(2)
    return torch.allclose(made, wanted, atol=tolerance, rtol=tolerance)
