"""Launching the kernel of `weighted_sum`: whether it supports the tensors, and its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from dcache.kernels import launch
from dcache.kernels.packed import Packed, Stored
from dcache.kernels.weighted_sum.reference import Weights
from dcache.kernels.weighted_sum.triton import MOST, weighted_sum_kernel

BLOCK = 1024
# Elements that share one load of a scale, if rows are multiples of it.
GROUP = 16
_RESULTS = (torch.float32, torch.bfloat16, torch.float16)


def fits(
    base: torch.Tensor | None,
    anchors: Sequence[Stored],
    dtype: torch.dtype,
    gate: torch.Tensor | None,
    out: torch.Tensor | None,
    op: str = "weighted_sum",
) -> bool:
    """True if the kernel supports these arguments; otherwise the reference is used."""
    shape = anchors[0].shape
    if dtype not in _RESULTS or len(anchors) > MOST or (gate is not None and not _fits_gate(gate, shape)):
        return False
    for t in (base, out):
        if t is not None and (t.shape != shape or t.dtype not in _RESULTS):
            return False
    parts: list[torch.Tensor] = []
    for anchor in anchors:
        if anchor.shape != shape:
            return False
        parts += anchor.tensors() if isinstance(anchor, Packed) else (anchor,)
    return launch.taken(op, *parts, base, gate, out)


def run(
    base: torch.Tensor | None,
    anchors: Sequence[Stored],
    weights: Weights,
    dtype: torch.dtype,
    gate: torch.Tensor | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """The sum, in one launch. Inputs that are not contiguous are copied first, such an `out` last."""
    like = anchors[0]
    direct = out is not None and out.is_contiguous() and out.dtype == dtype
    total = out if out is not None and direct else torch.empty(like.shape, dtype=dtype, device=like.device)
    size, width = total.numel(), like.shape[-1] if gate is not None else 0
    row = row_of(anchors)
    lines = size // width // (gate.numel() // width) if gate is not None else 1
    data, scales = operands(anchors)
    with launch.on_device(like.device):
        weighted_sum_kernel[(-(-size // BLOCK),)](
            total, _flat(base), _flat(gate), weights_on(weights, like.device), *data, *scales, size, lines,
            COUNT=len(anchors), ROW=row, D=width, BLOCK=BLOCK, V=GROUP if (row | width) % GROUP == 0 else 1,
        )  # fmt: skip
    return total if out is None or direct else out.copy_(total)


def operands(anchors: Sequence[Stored]) -> tuple[list[torch.Tensor | None], list[torch.Tensor | None]]:
    """Contiguous data and scales of the anchors, each padded with None to `MOST` entries."""
    parts = [_parts(anchor) for anchor in anchors]
    rest = [None] * (MOST - len(parts))
    data = [data.contiguous() for data, _ in parts]
    return [*data, *rest], [*(None if s is None else s.contiguous() for _, s in parts), *rest]


def row_of(anchors: Sequence[Stored]) -> int:
    """Number of elements that share a scale; 0, a multiple of every number, if there are no scales."""
    return next((a.numel() // a.scale.numel() for a in anchors if isinstance(a, Packed)), 0)


def weights_on(weights: Weights, device: torch.device) -> torch.Tensor:
    """The weights as a float32 tensor on the device; equal Python floats share one tensor."""
    if isinstance(weights, torch.Tensor):
        return weights.to(device, torch.float32).contiguous()
    return numbers(tuple(weights), device)


def numbers(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """These numbers in float32 on the device, uploaded once for each stream."""
    # On another stream the upload might not be complete.
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    return _uploaded(values, device, stream)


@lru_cache(maxsize=1024)
def _uploaded(values: tuple[float, ...], device: torch.device, stream: int) -> torch.Tensor:
    return launch.upload(values, torch.float32, device)


def _parts(anchor: Stored) -> tuple[torch.Tensor, torch.Tensor | None]:
    return anchor.tensors() if isinstance(anchor, Packed) else (anchor, None)


def _flat(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _fits_gate(gate: torch.Tensor, shape: Sequence[int]) -> bool:
    """True if a gate has the shape (B or 1, 1, ..., D)."""
    if gate.dtype not in _RESULTS or gate.ndim != len(shape) or gate.ndim < 2:
        return False
    between = all(size == 1 for size in gate.shape[1:-1])
    return between and gate.shape[-1] == shape[-1] and gate.shape[0] in (1, shape[0])
