"""Sampling with noise that depends on seed, step, row, position and token alone.

Cached and uncached runs of one seed therefore draw alike, whatever rows they compute, on any device.
"""

from __future__ import annotations

import torch

# Constants of the finaliser of MurmurHash3, and the golden ratio, as signed 64-bit integers.
_FIRST = 0xFF51AFD7ED558CCD - 2**64
_SECOND = 0xC4CEB9FE1A85EC53 - 2**64
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_SHIFT = 33
_LOW = (1 << (64 - _SHIFT)) - 1
_BITS = 52


def mixed(values: torch.Tensor) -> torch.Tensor:
    """A hash of int64 values, elementwise."""
    for factor in (_FIRST, _SECOND):
        # The shift of signed integers copies the sign: the mask drops the copies.
        values = (values ^ ((values >> _SHIFT) & _LOW)) * factor
    return values ^ ((values >> _SHIFT) & _LOW)


def keys_of(seed: int, steps: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """One int64 key for each of positions `[B, C]`, at steps `[B]` of the rows."""
    rows = torch.arange(len(steps), device=positions.device)
    key = mixed(torch.full_like(steps, seed) * _GOLDEN + steps)
    return mixed((key * _GOLDEN + rows)[:, None] * _GOLDEN + positions)


def uniform(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Float64 in (0, 1), `count` for each key, in a new last dimension."""
    numbers = torch.arange(1, count + 1, device=keys.device) * _GOLDEN
    bits = (mixed(keys[..., None] + numbers) >> (64 - _BITS)) & ((1 << _BITS) - 1)
    return (bits.double() + 0.5) / 2**_BITS


def sample(logits: torch.Tensor, temperature: float, keys: torch.Tensor) -> torch.Tensor:
    """Tokens int64 `[B, C]` of logits `[B, C, V]`: the largest, or a sample by the Gumbel-max trick."""
    if temperature == 0:
        return logits.argmax(-1)
    noise = uniform(keys, logits.shape[-1])
    return (logits.double() / temperature - torch.log(-torch.log(noise))).argmax(-1)
