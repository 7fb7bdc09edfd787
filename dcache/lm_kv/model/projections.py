"""How a model's layers make keys and values of what they are given, for codecs that make them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.latents import Latent, Linear, latent_of
from dcache.lm_kv.model import adapter
from dcache.lm_kv.model.noted import few_ids, noted
from dcache.lm_kv.model.remembered import Remembered
from dcache.lm_kv.model.rotary import Rotary, attention_modules

# Keys' and values' weights and biases.
Weights = Mapping[str, tuple[torch.Tensor, torch.Tensor | None]]
Linears = Mapping[int, Mapping[str, Linear]]
Latents = Mapping[int, Mapping[str, Latent | Linear]]

_latents: Remembered[Latents] = Remembered()
_linears: Remembered[Linears] = Remembered()


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

    def find() -> Latents:
        found = _projections(decoder, layers, rotary, name)
        return {i: {part: _narrow(linear) for part, linear in both.items()} for i, both in found.items()}

    return _latents.of(decoder, find)


@torch.no_grad()
def linears_of(decoder: torch.nn.Module, layers: Sequence[int], rotary: Rotary, name: str) -> Linears:
    """The projections of each layer, with the directions of its input on which they depend; as `latents_of`.

    Raises:
        DcacheError: as there.
    """

    def find() -> Linears:
        found = _projections(decoder, layers, rotary, name)
        return {layer: _directed(linears) for layer, linears in found.items()}

    return _linears.of(decoder, find)


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
    """Each layer's projections, tried on a few tokens."""
    modules = attention_modules(decoder, list(layers))
    hooks = adapter.InputHooks(modules)
    ids = few_ids(decoder)
    cache = noted(decoder, ids, reads_inputs=True)
    # They live as long as this.
    del hooks
    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    found = {}
    for layer, module in modules.items():
        keys, values = cache.layers[layer].noted
        turned = rotary.turn(layer, keys.float(), positions, "back")
        states = {"keys": turned, "values": values.float()}
        linears = _fitting(module, cache.layers[layer].given, states, cache.layers[layer].query_heads)
        if linears is None:
            raise DcacheError(
                f"layer {layer} does not make its keys and values by plain linear layers (it norms them, "
                f"say, is quantised, or has an adapter that is not merged), so {name} cannot make them "
                "again: use lm_kv.kivi() or lm_kv.rotatekv()"
            )
        found[layer] = linears
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
    # A rotation mixes the rounding of a head's large channels (biases of Qwen2's) into its small ones.
    largest = states.abs().amax(3, keepdim=True).expand_as(states).transpose(1, 2).flatten(2)
    allowed = tolerance * (1 + wanted.abs()) + torch.finfo(linear.weight.dtype).eps * largest
    return bool(((made - wanted).abs() <= allowed).all())
