"""Attention on runs of few bits on CPUs: decoded piece by piece, so that little is ever in floats."""

from __future__ import annotations

import torch

from dcache.kernels.lowbit import LowBit
from dcache.kernels.lowbit.reference import decoded
from dcache.kernels.ragged_attention import reference
from dcache.kernels.ragged_attention.runs import Runs

# Tokens of a piece, about: keys and values of 128 channels stay in a core's cache.
_PIECE = 1024


def few_bits(
    query: torch.Tensor,
    keys: torch.Tensor | LowBit,
    values: torch.Tensor | LowBit,
    runs: Runs,
    scale: float,
    softcap: float | None,
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference on unpacked keys and values, in float32 or better."""
    R, G, _ = query.shape
    group = keys.group if isinstance(keys, LowBit) else 1
    # Pieces begin with a group of keys.
    size = max(1, _PIECE // group) * group
    channels = values.channels if isinstance(values, LowBit) else values.shape[1]
    wide = query.to(torch.promote_types(query.dtype, torch.float32))
    out = wide.new_zeros(R, G, channels)
    lse = wide.new_full((R, G), float("-inf"))
    start = first_group = 0
    for run, count in enumerate(runs.sizes):
        results = []
        for first in range(0, count, size):
            tokens = slice(start + first, start + min(count, first + size))
            groups = slice(first_group + first // group, first_group - (-tokens.stop + start) // group)
            results.append(
                reference.ragged_attention(
                    wide[run : run + 1],
                    _floats(keys, tokens, groups),
                    _floats(values, tokens, groups),
                    Runs.of([tokens.stop - tokens.start], query.device),
                    scale,
                    softcap,
                    None if bias is None else bias[tokens],
                )
            )
        start += count
        first_group -= -count // group
        if results:
            outs, lses = (torch.stack(some) for some in zip(*results, strict=True))
            merged = reference.merge(outs, lses) if len(outs) > 1 else (outs[0], lses[0])
            out[run], lse[run] = merged[0][0], merged[1][0]
    return out, lse


def _floats(operand: torch.Tensor | LowBit, tokens: slice, groups: slice) -> torch.Tensor:
    """Tokens of one run in float32; `groups` are theirs where every run begins a new one."""
    if not isinstance(operand, LowBit):
        return operand[tokens].float()
    if operand.lengths is None:
        return decoded(operand, tokens, None)
    return decoded(operand, tokens, groups if operand.index is None else operand.index[tokens].long())
