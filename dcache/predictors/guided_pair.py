"""Separate weights for the mean and the difference of the conditional and unconditional halves.

Guidance passes u + s (c - u) to the sampler, with u the unconditional half of the batch and c the conditional
one. It magnifies an error of the difference c - u by s, but not one of the mean (u + c) / 2. So a line
through two anchors may improve the mean and spoil the difference. With weights w for the mean and v for the
difference, the prediction is

    u' = sum_i (w_i + v_i) / 2 u_i + (w_i - v_i) / 2 c_i,   c' the same with u and c exchanged

The formula is symmetric, so it does not matter which half is which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from dcache.kernels.packed import Stored
from dcache.kernels.weighted_sum import weighted_sum
from dcache.predictors.base import Predictor

Sum = Callable[[torch.Tensor | None, Sequence[Stored], Sequence[float], torch.dtype], torch.Tensor]


def halves_equal(entry: torch.Tensor | None) -> bool:
    """True if both halves of dimension 0 have the same bits, as the latents of a guided batch (one sync)."""
    if entry is None or entry.ndim == 0 or entry.shape[0] % 2:
        return False
    a, b = entry.chunk(2)
    return torch.equal(a, b)


def paired_sum(predictor: Predictor, taus: Sequence[float], steps: Sequence[int], tau: float) -> Sum | None:
    """A `weighted_sum` for a guided batch: its `weights` are the mean's, the predictor adds the difference's.

    Args:
        predictor: the predictor of one site.
        taus: clock values of the anchors, oldest first.
        steps: evaluations of the same anchors.
        tau: clock value of the current evaluation.

    Returns:
        A function like `weighted_sum`; None if the difference has the mean's weights.
    """
    difference_weights = predictor.difference_weights(taus, steps, tau)
    return None if difference_weights is None else partial(_paired, difference_weights)


def _paired(
    difference_weights: Sequence[float],
    base: torch.Tensor | None,
    anchors: Sequence[Stored],
    weights: Sequence[float],
    dtype: torch.dtype,
) -> torch.Tensor:
    # A leaf that is not a batch of two halves, such as a shared embedding, has the mean's weights.
    if anchors[-1].ndim == 0 or anchors[-1].shape[0] % 2:
        return weighted_sum(base, anchors, weights, dtype)
    pairs = list(zip(weights, difference_weights, strict=True))
    # Weights of the anchors' rows of the predicted half, then of the other half.
    mixed = [(w + v) / 2 for w, v in pairs] + [(w - v) / 2 for w, v in pairs]
    chunks = [anchor.chunk(2) for anchor in anchors]
    bases = (None, None) if base is None else base.chunk(2)
    # Where w = v the other half's weight is 0, and it need not be read.
    nonzero = [i for i, w in enumerate(mixed) if w != 0.0]
    mixed = [mixed[i] for i in nonzero]
    total = torch.empty(anchors[-1].shape, dtype=dtype, device=anchors[-1].device)
    for half, part in enumerate(total.chunk(2)):
        both = [*(c[half] for c in chunks), *(c[1 - half] for c in chunks)]
        weighted_sum(bases[half], [both[i] for i in nonzero], mixed, dtype, out=part)
    return total
