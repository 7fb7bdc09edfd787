"""`weighted_sum`: base + gate * sum_i w_i z_i, the arithmetic of every prediction; `weighted_sums`: many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from dcache.kernels import launch
from dcache.kernels.packed import Stored
from dcache.kernels.weighted_sum import blocks, reference
from dcache.kernels.weighted_sum.reference import Weights

__all__ = ["Job", "Weights", "weighted_sum", "weighted_sums"]


def weighted_sum(
    base: torch.Tensor | None,
    anchors: Sequence[Stored],
    weights: Weights,
    dtype: torch.dtype,
    *,
    gate: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `base + gate * sum_i weights[i] * anchors[i]` in `dtype`.

    Args:
        base: tensor of the anchors' shape, added with weight one, or None.
        anchors: at least one tensor or `Packed`, all of one shape; any floating-point dtype.
        weights: one Python float per anchor, or a float32 tensor of them on the anchors' device.
        dtype: the result's dtype. Narrow dtypes accumulate in float32.
        gate: factor of the sum, broadcastable to the anchors' shape, or None.
        out: tensor for the result, of `dtype`; it may be one of the inputs. None: a new tensor.
    """
    like = anchors[0]
    # Called for every site and evaluation: on a CPU, avoid every function call that is not needed.
    if (like.device.type != "cpu" or launch.mode != "auto") and launch.possible(like.device):
        from dcache.kernels.weighted_sum import launching

        if launching.fits(base, anchors, dtype, gate, out):
            return launching.run(base, anchors, weights, dtype, gate, out)
    if like.numel() <= launch.CPU_BLOCK:
        return reference.weighted_sum(base, anchors, weights, dtype, gate=gate, out=out)
    return blocks.weighted_sum(base, anchors, weights, dtype, gate=gate, out=out)


class Job(NamedTuple):
    """The arguments of one `weighted_sum`."""

    base: torch.Tensor | None
    anchors: Sequence[Stored]
    weights: Weights
    dtype: torch.dtype
    out: torch.Tensor | None = None


def weighted_sums(jobs: Sequence[Job]) -> list[torch.Tensor]:
    """The `weighted_sum` of each job.

    On a GPU jobs with the same dtypes share one launch; their shapes and weights may differ. No job may write
    memory that another job reads. On a CPU they run one by one: torch's `_foreach` functions are no faster in
    float32, and several times slower in narrow dtypes, where they would keep all wide copies at once.
    """
    sums: dict[int, torch.Tensor] = {}
    if jobs and launch.possible(jobs[0].anchors[0].device):
        from dcache.kernels.weighted_sum import batch

        for places in batch.groups(jobs):
            sums.update(zip(places, batch.run([jobs[i] for i in places]), strict=True))
    return [sums[i] if i in sums else weighted_sum(*job[:4], out=job.out) for i, job in enumerate(jobs)]
