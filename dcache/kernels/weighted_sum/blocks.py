"""The reference in blocks, for tensors whose float32 copies would not stay in a CPU's cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dcache.kernels import launch
from dcache.kernels.packed import Packed, Stored
from dcache.kernels.weighted_sum import reference
from dcache.kernels.weighted_sum.reference import NARROW, Weights

_UNIT = 64


def weighted_sum(
    base: torch.Tensor | None,
    anchors: Sequence[Stored],
    weights: Weights,
    dtype: torch.dtype,
    *,
    gate: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """As the reference, with the same bits, in pieces of the flat tensors."""
    if not _worth_splitting(base, anchors, dtype, gate, out):
        return reference.weighted_sum(base, anchors, weights, dtype, gate=gate, out=out)
    like = anchors[0]
    total = torch.empty(like.shape, dtype=dtype, device=like.device) if out is None else out
    packed = next((a for a in anchors if isinstance(a, Packed)), None)
    row = 1 if packed is None else packed.numel() // packed.scale.numel()
    lines = [_lines(anchor, row) for anchor in anchors]
    under = None if base is None else base.view(-1, row)
    # Steps are multiples of the vector width, so that the same elements as in one piece are the remainder.
    step = max(launch.cpu_block() // (_UNIT * row), 1) * _UNIT
    for i in range(0, like.numel() // row, step):
        part = slice(i, i + step)
        pieces = [line[part] for line in lines]
        piece = None if under is None else under[part]
        reference.weighted_sum(piece, pieces, weights, dtype, out=total.view(-1, row)[part])
    return total


def _worth_splitting(
    base: torch.Tensor | None,
    anchors: Sequence[Stored],
    dtype: torch.dtype,
    gate: torch.Tensor | None,
    out: torch.Tensor | None,
) -> bool:
    """True if pieces help: there are several, of contiguous tensors of one shape, some of them narrow."""
    like = anchors[0]
    if like.numel() <= launch.cpu_block() or like.device.type != "cpu" or gate is not None:
        return False
    if dtype not in NARROW and not any(isinstance(a, Packed) or a.dtype != dtype for a in anchors):
        return False
    graded = torch.is_grad_enabled()
    plain = [t for t in (*anchors, base, out) if isinstance(t, torch.Tensor)]
    flat = all(t.is_contiguous() and not (graded and t.requires_grad) for t in plain)
    return flat and all(t is None or t.shape == like.shape for t in (*anchors, base, out))


def _lines(anchor: Stored, row: int) -> Stored:
    """A view as (lines, row)."""
    if isinstance(anchor, torch.Tensor):
        return anchor.view(-1, row)
    return Packed(anchor.data.view(-1, row), anchor.scale, anchor.dtype)
