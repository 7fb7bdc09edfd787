"""The halves of a guided batch carried apart: their mean by some weights, their difference by others.

Guidance gives the sampler u + s (c - u) of the branches without and with the prompt. An error of the
difference c - u is magnified by s, one of the mean is not: a line through two anchors, followed by both, may
help the mean and spoil the difference. With weights w of the mean and v of the difference

    u' = sum_i (w_i + v_i) / 2 u_i + (w_i - v_i) / 2 c_i,   c' the same with u and c exchanged

so it does not matter which half is which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from dcache.kernels.packed import Stored
from dcache.kernels.weighted_sum import weighted_sum
from dcache.predictors.base import Predictor

Sum = Callable[[torch.Tensor | None, Sequence[Stored], Sequence[float], torch.dtype], torch.Tensor]


def halves_equal(entry: torch.Tensor | None) -> bool:
    """Whether the first dimension falls into two halves that are the same bit for bit (one sync)."""
    if entry is None or entry.ndim == 0 or entry.shape[0] % 2:
        return False
    a, b = entry.chunk(2)
    return torch.equal(a, b)


def apart(predictor: Predictor, steps: Sequence[int], tau: float) -> Sum | None:
    """`weighted_sum` with the predictor's weights of the difference beside those it is given for the mean.

    Args:
        predictor: of one site.
        steps: evaluations of the anchors, oldest first.
        tau: the clock value to predict at.

    Returns:
        None where the difference is predicted with the mean's weights.
    """
    weights_of_difference = predictor.difference_weights(steps, tau)
    if weights_of_difference is None:
        return None
    differences = weights_of_difference

    def summed(
        base: torch.Tensor | None,
        anchors: Sequence[Stored],
        weights: Sequence[float],
        dtype: torch.dtype,
    ) -> torch.Tensor:
        if anchors[-1].ndim == 0 or anchors[-1].shape[0] % 2:
            return weighted_sum(base, anchors, weights, dtype)
        pairs = list(zip(weights, differences, strict=True))
        mixed = [(w + v) / 2 for w, v in pairs] + [(w - v) / 2 for w, v in pairs]
        chunks = [anchor.chunk(2) for anchor in anchors]
        bases = (None, None) if base is None else base.chunk(2)
        used = [i for i, w in enumerate(mixed) if w != 0.0]
        weighed = [mixed[i] for i in used]
        whole = torch.empty(anchors[-1].shape, dtype=dtype, device=anchors[-1].device)
        for half, part in enumerate(whole.chunk(2)):
            both = [*(c[half] for c in chunks), *(c[1 - half] for c in chunks)]
            weighted_sum(bases[half], [both[i] for i in used], weighed, dtype, out=part)
        return whole

    return summed
