"""Confidence intervals of a mean, by resampling prompts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 1000
LEVEL = 0.95


def interval(
    values: ArrayLike, prompts: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """The 95 % percentile interval of the mean (Efron 1979), over prompts.

    Pictures of one prompt are not independent, so whole prompts are resampled, each with all its values. With
    few prompts the interval is somewhat too narrow, as all percentile intervals are.

    Args:
        values: (N,) one for each picture.
        prompts: (N,) number of each picture's prompt.
        resamples: number of resampled means.
        seed: seed of the resampling.

    Returns:
        Low and high, or None for fewer than two prompts.

    >>> interval([1.0, 1.0, 1.0], [0, 1, 2])
    (1.0, 1.0)
    >>> interval([1.0, 3.0], [0, 0]) is None
    True
    """
    _, group = np.unique(np.asarray(prompts), return_inverse=True)
    sums, counts = np.bincount(group, weights=np.asarray(values, np.float64)), np.bincount(group)
    if len(sums) < 2:
        return None
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    for i in range(resamples):
        drawn = random.integers(len(sums), size=len(sums))
        means[i] = sums[drawn].sum() / counts[drawn].sum()
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
