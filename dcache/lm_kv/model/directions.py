"""The directions of each head's keys and values in a model, as they lie in a cache: of random tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dcache.lm_kv.codecs.bases import HeadBasis
from dcache.lm_kv.model.noted import noted
from dcache.lm_kv.model.remembered import Remembered

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


@dataclass
class _Found:
    """Of one model: its directions, and the bases that were chosen of them, by share."""

    measured: Measured
    bases: dict[float, Bases] = field(default_factory=dict)


_found: Remembered[_Found] = Remembered()


def bases_of(decoder: torch.nn.Module, layers: Sequence[int], share: float) -> Bases:
    """The strongest directions of each layer's heads, measured once for a model as its weights are.

    Args:
        decoder: of the model.
        layers: indices of its layers with full attention.
        share: of all directions, those that are taken.
    """
    found = _found.of(decoder, lambda: _Found(measure(decoder, layers)))
    if share not in found.bases:
        measured = found.measured
        ranks = shared_ranks({key: of.variance for key, of in measured.items()}, share)
        found.bases[share] = {
            layer: {part: _heads(measured[layer, part], ranks[layer, part]) for part in PARTS}
            for layer in layers
        }
    return found.bases[share]


def _heads(found: Directions, ranks: Sequence[int]) -> tuple[HeadBasis, ...]:
    # Tensors of their own: a piece of a larger one would keep all of it alive.
    rows = zip(found.mean, found.vectors, ranks, strict=True)
    return tuple(HeadBasis(mean.clone(), vectors[:rank].half()) for mean, vectors, rank in rows)


@torch.no_grad()
def measure(decoder: torch.nn.Module, layers: Sequence[int]) -> Measured:
    """Principal components of each head's keys, as attention has them, and values."""
    config: Any = decoder.config
    generator, device = torch.Generator().manual_seed(0), next(decoder.parameters()).device
    length = min(TOKENS, getattr(config, "max_position_embeddings", TOKENS))
    ids = torch.randint(config.vocab_size, (ROWS, length), generator=generator, device="cpu")
    cache = noted(decoder, ids.to(device))
    return {
        (layer, part): principal(states)
        for layer in layers
        for part, states in zip(PARTS, cache.layers[layer].noted, strict=True)
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
