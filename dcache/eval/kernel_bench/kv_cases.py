"""The timed ops of key-value caches: few bits, attention on ragged runs, columns of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TypeAlias

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from dcache.eval.kernel_bench.cases import Case
from dcache.kernels import launch
from dcache.kernels.column_stats import column_stats
from dcache.kernels.lowbit import LowBit, pack, reference, unpack
from dcache.kernels.ragged_attention import ragged_attention

# Heads have so many channels; four of them share a run of keys.
CHANNELS, HEADS = 128, 4
# Queries whose attention is summed by column.
QUERIES = 64
BITS, GROUP = 4, 64
Operand: TypeAlias = torch.Tensor | LowBit


def cache_cases(size: int, dtype: torch.dtype, device: str) -> Iterator[Case]:
    """All cases, for keys of `size` bytes in four runs, the first of which has half of them."""
    random = torch.Generator().manual_seed(0)
    N = size // (CHANNELS * dtype.itemsize)
    lengths = torch.tensor([N // 2, N // 4, N // 8, N - N // 2 - N // 4 - N // 8], device=device)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random).to(device, dtype)

    keys, values = normal(N, CHANNELS), normal(N, CHANNELS)
    yield from _bits(keys, lengths)
    yield from _attention(normal(4, HEADS, CHANNELS), keys, values, lengths)
    query = normal(4, QUERIES, CHANNELS)
    yield Case(
        f"column_stats, {QUERIES} queries",
        # Once for the queries' sums, once for the columns.
        (keys, keys),
        lambda: list(column_stats(query, keys, lengths, CHANNELS**-0.5)),
        partial(_columns, query, keys, lengths),
        launch.taken("column_stats", query, keys),
    )


def _bits(keys: torch.Tensor, lengths: torch.Tensor) -> Iterator[Case]:
    channels, tokens = pack(keys, BITS, GROUP, lengths), pack(keys, BITS, GROUP)
    for name, packed, per in (("channel", channels, lengths), ("token", tokens, None)):
        parts = (packed.codes, packed.step, packed.low)
        yield Case(
            f"pack, {BITS} bits per {name}",
            (keys, *parts),
            partial(_packed, keys, per),
            partial(_packed_plainly, keys, per),
            launch.taken("pack", keys),
        )
        yield Case(
            f"unpack, {BITS} bits per {name}",
            (keys, *parts),
            partial(unpack, packed),
            partial(reference.unpack, packed),
            launch.taken("unpack", keys),
        )


def _attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor
) -> Iterator[Case]:
    scale = CHANNELS**-0.5
    kernel = launch.taken("ragged_attention", query, keys)
    low = pack(keys, BITS, GROUP, lengths), pack(values, BITS, GROUP)
    pairs: list[tuple[str, tuple[Operand, Operand]]] = [("", (keys, values)), (f", {BITS} bits", low)]
    for name, (k, v) in pairs:
        yield Case(
            f"ragged_attention, {HEADS} heads a run{name}",
            (*_parts(k), *_parts(v)),
            partial(_ragged, query, k, v, lengths, scale),
            partial(_padded_attention, query, k, v, lengths),
            kernel,
        )


def _ragged(
    query: torch.Tensor, keys: Operand, values: Operand, lengths: torch.Tensor, scale: float
) -> torch.Tensor:
    return ragged_attention(query, keys, values, lengths, scale)[0]


def _parts(t: Operand) -> tuple[torch.Tensor, ...]:
    if not isinstance(t, LowBit):
        return (t,)
    return (t.codes, t.step, *(() if t.low is None else (t.low,)))


def _packed(keys: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    return pack(keys, BITS, GROUP, lengths).codes


def _packed_plainly(keys: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    if lengths is None:
        return reference.pack_tokens(keys, BITS, GROUP).codes
    return reference.pack_channels(keys, BITS, GROUP, lengths).codes


def _padded_attention(
    query: torch.Tensor, keys: Operand, values: Operand, lengths: torch.Tensor
) -> torch.Tensor:
    """Fused attention on runs padded to the longest one."""
    k, v = _padded(keys, lengths), _padded(values, lengths)
    mask = torch.arange(k.shape[1], device=query.device) < lengths[:, None, None]
    return F.scaled_dot_product_attention(query, k, v, attn_mask=mask, scale=CHANNELS**-0.5)


def _padded(t: Operand, lengths: torch.Tensor) -> torch.Tensor:
    plain = reference.unpack(t) if isinstance(t, LowBit) else t
    return pad_sequence(list(torch.split(plain, lengths.tolist())), batch_first=True)


def _columns(query: torch.Tensor, keys: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
    """Sums and maxima of whole matrices of weights."""
    runs = zip(query.float(), torch.split(keys.float(), lengths.tolist()), strict=True)
    weights = [(q @ k.T * CHANNELS**-0.5).softmax(-1) for q, k in runs]
    return [torch.cat([w.sum(0) for w in weights]), torch.cat([w.amax(0) for w in weights])]
