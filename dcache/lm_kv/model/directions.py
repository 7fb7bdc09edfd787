"""The directions of each head's keys and values in a model, as they lie in a cache: of random tokens."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dcache.lm_kv.codecs.bases import HeadBasis
from dcache.lm_kv.model import adapter
from dcache.lm_kv.model.attention import Fresh, Logits, attend_some
from dcache.lm_kv.model.families import layers_for
from dcache.lm_kv.storage.parts import DensePart

# Random tokens that are read, in rows of at most 256.
ROWS, TOKENS = 4, 256
PARTS = ("keys", "values")


@dataclass(frozen=True, eq=False)
class Directions:
    """Of the keys or values of one layer.

    Attributes:
        mean: float32 `[h, d]`.
        vectors: float32 `[h, d, d]`, orthonormal, one a row, the strongest first.
        variance: float32 `[h, d]`, along each.
    """

    mean: torch.Tensor
    vectors: torch.Tensor
    variance: torch.Tensor


Measured = Mapping[tuple[int, str], Directions]
Bases = dict[int, dict[str, tuple[HeadBasis, ...]]]
_measured: weakref.WeakKeyDictionary[torch.nn.Module, Measured] = weakref.WeakKeyDictionary()
_bases: weakref.WeakKeyDictionary[torch.nn.Module, dict[float, Bases]] = weakref.WeakKeyDictionary()


def bases_of(decoder: torch.nn.Module, layers: Sequence[int], share: float) -> Bases:
    """The strongest directions of each layer's heads, measured once for a model.

    Args:
        decoder: of the model.
        layers: indices of its layers with full attention.
        share: of all directions, those that are taken.
    """
    known = _bases.setdefault(decoder, {})
    if share not in known:
        if decoder not in _measured:
            _measured[decoder] = measure(decoder, layers)
        measured = _measured[decoder]
        ranks = shared_ranks({key: found.variance for key, found in measured.items()}, share)
        known[share] = {
            layer: {part: _heads(measured[layer, part], ranks[layer, part]) for part in PARTS}
            for layer in layers
        }
    return known[share]


def _heads(found: Directions, ranks: Sequence[int]) -> tuple[HeadBasis, ...]:
    # Tensors of their own: a piece of a larger one would keep all of it alive.
    rows = zip(found.mean, found.vectors, ranks, strict=True)
    return tuple(HeadBasis(mean.clone(), vectors[:rank].half()) for mean, vectors, rank in rows)


class _NotedLayer(adapter.FullLayer):
    """A layer that notes its keys and values, and how many heads its queries have."""

    noted: tuple[torch.Tensor, torch.Tensor]
    query_heads: int

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return adapter.tag(key_states, self), value_states

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        **kwargs: Any,
    ) -> torch.Tensor:
        self.noted, self.query_heads = (key, value), query.shape[1]
        logits = Logits(scaling, kwargs.get("softcap"), kwargs.get("s_aux"))
        return attend_some(query, [DensePart(key, value)], logits, Fresh(None, None))


class NotedCache(adapter.LiveCache):
    """A cache for one call."""

    def __init__(self, decoder: torch.nn.Module) -> None:
        layers, self.compressed_layers = layers_for(decoder, lambda _: _NotedLayer())
        super().__init__(layers=layers)


@torch.no_grad()
def measure(decoder: torch.nn.Module, layers: Sequence[int]) -> Measured:
    """Principal components of each head's keys, as attention has them, and values."""
    config: Any = decoder.config
    generator, device = torch.Generator().manual_seed(0), next(decoder.parameters()).device
    length = min(TOKENS, getattr(config, "max_position_embeddings", TOKENS))
    ids = torch.randint(config.vocab_size, (ROWS, length), generator=generator, device="cpu")
    attachment, cache = adapter.attach(decoder), NotedCache(decoder)
    decoder(input_ids=ids.to(device), past_key_values=cache, use_cache=True)
    # The hooks live as long as the attachment.
    del attachment
    return {
        (layer, part): principal(noted)
        for layer in layers
        for part, noted in zip(PARTS, cache.layers[layer].noted, strict=True)
    }


def principal(states: torch.Tensor) -> Directions:
    """Mean and principal components of states `[B, h, T, d]`, of each head by itself."""
    tokens = states.double().transpose(0, 1).flatten(1, 2)
    mean = tokens.mean(1)
    centred = tokens - mean[:, None]
    values, vectors = torch.linalg.eigh(centred.mT @ centred / tokens.shape[1])
    variance = values.flip(1).clamp_min(0.0)
    return Directions(mean.float(), vectors.mT.flip(1).float().contiguous(), variance.float())


def shared_ranks(
    variances: Mapping[tuple[int, str], torch.Tensor], share: float
) -> dict[tuple[int, str], list[int]]:
    """How many directions each head stores: all heads of all layers, keys and values, share them.

    A direction's worth is its share of its head's variance. Every head has a quarter of its own at least.

    Args:
        variances: float32 `[h, d]` of each layer's keys and values, in descending order.
        share: of all directions, those that are stored, rounded down.

    >>> even, steep = torch.ones(1, 4), torch.tensor([[8.0, 1.0, 0.5, 0.5]])
    >>> shared_ranks({(0, "keys"): steep, (0, "values"): even}, 0.625)
    {(0, 'keys'): [1], (0, 'values'): [4]}
    """
    worth: list[tuple[float, int, tuple[int, str], int]] = []
    for key, variance in variances.items():
        portions = variance / variance.sum(1, keepdim=True).clamp_min(1e-30)
        portions[:, : max(1, variance.shape[1] // 4)] = 2.0
        for head, row in enumerate(portions.tolist()):
            # Of equals the stronger direction of its head, so that equal heads have as many.
            worth += [(-portion, place, key, head) for place, portion in enumerate(row)]
    ranks = {key: [0] * len(variance) for key, variance in variances.items()}
    for *_, key, head in sorted(worth)[: int(share * len(worth) + 1e-9)]:
        ranks[key][head] += 1
    return ranks
