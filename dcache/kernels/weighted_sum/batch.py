"""Launching the kernel of `weighted_sums`, with the addresses of a group's jobs in one small table."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import gcd
from typing import TYPE_CHECKING

import torch
import triton.language as tl

from dcache.kernels import launch
from dcache.kernels.packed import Packed
from dcache.kernels.weighted_sum.launching import BLOCK, GROUP, fits, numbers, operands, row_of, weights_on
from dcache.kernels.weighted_sum.triton import weighted_sums_kernel

if TYPE_CHECKING:
    from dcache.kernels.weighted_sum import Job

_TRITON = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.int8: tl.int8,
    torch.float8_e4m3fn: tl.float8e4nv,
}
# Loads of 16 bytes need addresses, and numbers of elements, that are multiples of this.
_ALIGNED = 16


def groups(jobs: Sequence[Job]) -> list[list[int]]:
    """Groups of jobs that can share one launch, as indices; jobs without such a group are left out."""
    by_key: dict[Hashable, list[int]] = {}
    for i, (base, anchors, _, dtype, out) in enumerate(jobs):
        direct = out is None or (out.is_contiguous() and out.dtype == dtype)
        if direct and fits(base, anchors, dtype, None, out, "weighted_sums"):
            key: list[Hashable] = [anchors[0].device, dtype, None if base is None else base.dtype]
            for anchor in anchors:
                # Packed anchors of one group need equal rows; tensors without scales may have any shape.
                key += (anchor.data.dtype, row_of(anchors)) if isinstance(anchor, Packed) else (anchor.dtype,)
            by_key.setdefault(tuple(key), []).append(i)
    return [places for places in by_key.values() if len(places) > 1]


def run(jobs: Sequence[Job]) -> list[torch.Tensor]:
    """The sums of one group, in one launch."""
    device, row = jobs[0].anchors[0].device, row_of(jobs[0].anchors)
    parts = [_parts(job) for job in jobs]
    # One line of 15 numbers per job, built inline because every launch pays for it.
    lines = [
        [t.numel(), t.data_ptr(), *[0 if z is None else z.data_ptr() for z in rest]] for t, rest in parts
    ]
    flat = [number for line in lines for number in line]
    aligned = gcd(_ALIGNED, *flat) == _ALIGNED
    total, rest = parts[0]
    kinds = [None if t is None else _TRITON[t.dtype] for t in (total, *rest)]
    table = launch.upload(flat, torch.int64, device)
    with launch.on_device(device):
        weighted_sums_kernel[(-(-max(line[0] for line in lines) // BLOCK), len(jobs))](
            table, _weights(jobs), *kinds, COUNT=len(jobs[0].anchors), ROW=row, BLOCK=BLOCK,
            V=GROUP if row % GROUP == 0 else 1, WIDTH=len(lines[0]), ALIGNED=aligned,
        )  # fmt: skip
    return [total for total, _ in parts]


def _weights(jobs: Sequence[Job]) -> torch.Tensor:
    """(jobs, anchors), float32."""
    device = jobs[0].anchors[0].device
    if any(isinstance(job.weights, torch.Tensor) for job in jobs):
        return torch.stack([weights_on(job.weights, device) for job in jobs])
    return numbers(tuple([float(w) for job in jobs for w in job.weights]), device)


def _parts(job: Job) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """A job's result tensor; and its base, data and scales, contiguous, None for those it does not have."""
    like = job.anchors[0]
    total = job.out
    if total is None:
        data_like = like.data if isinstance(like, Packed) else like
        total = torch.empty_like(data_like, dtype=job.dtype, memory_format=torch.contiguous_format)
    data, scales = operands(job.anchors)
    return total, [None if job.base is None else job.base.contiguous(), *data, *scales]
